"""Recovery by least squares: a map fitted for each run, folded into weights that are there."""
