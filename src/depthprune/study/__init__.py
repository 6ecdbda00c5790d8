"""Judging what a search chose, on data that it did not see."""
