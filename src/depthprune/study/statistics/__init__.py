"""A study's statistics: `data` turns the table into arrays; every other module is one theme."""
