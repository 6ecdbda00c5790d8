"""Recovery by magnitude: the state before each gap scaled to the size of that behind it."""
