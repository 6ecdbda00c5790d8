"""Where the templates lie and what they may call: the same words and numbers in page and card."""

from __future__ import annotations

from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined

from depthprune.report import draft, numbers, recovery, summary, target, training

HERE = "depthprune.report"


@cache
def environment(*, autoescape: bool, package: str = HERE) -> Environment:
    """The jinja environment of a report; a name that is not defined is an error, not a blank.

    It is made once, for compiling the templates takes longer than filling them in.

    Args:
        autoescape: Escape for HTML. The card, which is Markdown, escapes by its own filters.
        package: Whose folder `templates` is read.
    """
    made = Environment(
        loader=PackageLoader(package),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.globals.update(n=numbers, s=summary, r=recovery, t=training, a=target, d=draft)
    return made


def source(name: str, package: str = HERE) -> str:
    """The text of a file among a package's templates that is not itself a template."""
    folder = resources.files(package).joinpath("templates")
    return folder.joinpath(name).read_text(encoding="utf-8")
