"""Models: finding and loading them, their blocks and how to call them, streaming and parity.

Nothing is imported here, so that who asks for what needs no torch (`source`) does not load it.
"""
