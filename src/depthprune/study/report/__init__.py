"""A study's report: its tables, figures and page."""
