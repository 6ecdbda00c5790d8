"""Damaged and hostile input, made by seeds."""
