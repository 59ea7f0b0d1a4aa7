"""Neighbour pruning: of units that are alike one stays, and takes over what the others gave."""
