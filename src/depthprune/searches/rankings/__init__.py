"""Methods that rank blocks once, by what they do to hidden states or by where they stand."""
