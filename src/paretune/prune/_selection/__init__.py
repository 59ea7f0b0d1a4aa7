"""Selection: which channels go, and what the budgets count."""
