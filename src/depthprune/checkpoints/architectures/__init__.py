"""Which architectures can be cut, and what is particular to each, as data."""
