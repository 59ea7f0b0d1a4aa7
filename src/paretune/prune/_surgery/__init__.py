"""Surgery: tensors cut, the code or the graph made to follow, and what the cut model must compute."""
