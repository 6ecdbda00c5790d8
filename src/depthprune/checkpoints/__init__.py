"""Checkpoints: files, configs, the table of architectures, adapters and the cut itself.

Nothing here imports torch or transformers, so a cut starts at once and its memory stays flat.
"""
