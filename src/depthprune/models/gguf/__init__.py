"""GGUF files, unpacked to be run."""
