"""The store of losses that were computed before: its file, its records, its checks."""
