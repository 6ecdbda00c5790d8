"""Models that do not fit: blocks are read from disk when they are called."""
