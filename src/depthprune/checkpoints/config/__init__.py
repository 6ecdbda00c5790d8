"""Configs: which fields are of the blocks, and what they become when blocks go."""
