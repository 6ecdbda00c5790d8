"""Models: their files and configs, their blocks and how to call them, surgery and parity.

Nothing is imported here, so that surgery, which knows nothing of torch, does not load it.
"""
