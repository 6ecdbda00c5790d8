"""What was done, shown: figures, the HTML page and the model card.

Everything here is made from the manifest, or from the records it is built of, and nothing is
computed anew; so a page can be made again from `depthprune.json` alone. Import the module you
need: `figures` draws on matplotlib, `page` and `card` on jinja2, and a verb that prints a table
(`cli/tables.py`) should wait for neither.
"""
