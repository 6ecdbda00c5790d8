"""Racing: which candidates are the best, from as few windows as it takes to be sure."""
