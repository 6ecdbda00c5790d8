"""GGUF files: their format, which of their architectures can be cut, and the cut."""
