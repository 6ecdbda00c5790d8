"""Pruned models as drafts of their originals: which is the best, and what one gains."""
