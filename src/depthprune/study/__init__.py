"""The study: judging what a search chose on data it did not see, and what a grid of them says.

`table` is the record of a grid; `data` turns it into arrays; every other module is one theme of
statistics on them, and `findings` the sentences that a page shows.
"""
