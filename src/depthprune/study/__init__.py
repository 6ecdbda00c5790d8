"""The study: judging what a search chose on data it did not see, and what a grid of them says.

A `plan` becomes a `grid` of cells; `runner` runs it, and `table` is the record of it, on which
`statistics` and `report` stand.
"""
