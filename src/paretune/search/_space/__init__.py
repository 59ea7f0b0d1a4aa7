"""What is searched: parameters, priors, conditions and forbidden combinations."""
