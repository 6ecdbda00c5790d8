"""Where the templates lie and what they may call: the same words and numbers in page and card."""

from __future__ import annotations

from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined

from depthprune.report import numbers, summary, target, training


def environment(*, autoescape: bool) -> Environment:
    """The jinja environment of this room; a name that is not defined is an error, not a blank.

    Args:
        autoescape: Escape for HTML. The card, which is Markdown, escapes by its own filters.
    """
    made = Environment(
        loader=PackageLoader("depthprune.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.globals.update(n=numbers, s=summary, t=training, a=target)
    return made


def source(name: str) -> str:
    """The text of a file among the templates that is not itself a template."""
    folder = resources.files("depthprune.report").joinpath("templates")
    return folder.joinpath(name).read_text(encoding="utf-8")
