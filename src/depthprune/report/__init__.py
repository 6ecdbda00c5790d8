"""What was done, shown: terminal tables, figures, the HTML page and the model card.

Everything here is made from the manifest, or from the records it is built of, and nothing is
computed anew; so a page can be made again from `depthprune.json` alone. Import the module you
need: `terminal` draws on rich, `figures` on matplotlib, `page` and `card` on jinja2, and a verb
that prints a table should not wait for the other two.
"""
