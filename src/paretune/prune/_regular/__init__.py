"""Training for sparsity: penalties that make weights, or whole channels, small or zero."""
