"""Figures as inline SVG for the page and as PNG for the README.

The page follows the reader's light or dark mode, so an SVG must not carry colours of its own:
figures are drawn in a palette of stand-ins, and each is replaced by a CSS variable that falls back
to the light colour. Text stays text, to be selected, searched and read aloud. The output depends on
nothing but the figure: no time stamp, no random ids.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import matplotlib.style
from matplotlib.figure import Figure

INK = "#1b2129"
MUTED = "#5c6672"
RULE = "#d9dee4"
PAPER = "#fdfdfc"
KEPT = "#3a6ea8"
REMOVED = "#b9481f"

_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    PAPER: "--paper",
    KEPT: "--kept",
    REMOVED: "--removed",
}
STYLE: list[Any] = [
    "default",
    {
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": RULE,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "hatch.linewidth": 1.4,
        "svg.fonttype": "none",
        "svg.hashsalt": "depthprune",
    },
]
"""For `matplotlib.style.context`, when drawing and when writing: matplotlib reads some settings at
the one time and some at the other, and the user's matplotlibrc should decide none of them."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def svg(figure: Figure, title: str, description: str) -> str:
    """A figure as an `<svg>` element to be put into a page, or to stand alone.

    Args:
        figure: Drawn in the palette of this module.
        title: What the figure is, for its `<title>` and its label.
        description: What is to be seen in it, for those who cannot.

    Returns:
        Well-formed XML without a declaration. It has a `viewBox` and no width, so it takes the
        width it is given. Its ids are its own, also beside other figures of the same page.
    """
    drawn = _draw(figure)
    key = "f" + hashlib.sha256(f"{title}\0{description}\0{drawn}".encode()).hexdigest()[:8]
    view_box, body = _split(drawn)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", body)
    body = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{key}-\1"', body)
    title, description = _CONTROL.sub("", title), _CONTROL.sub("", description)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view_box}" role="img" '
        f'aria-label={quoteattr(title)} aria-describedby="{key}-desc" '
        'style="stroke-linejoin: round; stroke-linecap: butt">\n'
        f"<title>{escape(title)}</title>\n"
        f'<desc id="{key}-desc">{escape(description)}</desc>\n{_recolour(body)}</svg>'
    )


def _draw(figure: Figure) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.style.context(STYLE), warnings.catch_warnings():
        # Words stay words in an SVG: the reader's fonts draw them, and not this machine's.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return buffer.getvalue()


def _split(drawn: str) -> tuple[str, str]:
    view_box = re.search(r'viewBox="([^"]+)"', drawn)
    start = drawn.index("<svg")
    body = drawn[drawn.index(">", start) + 1 : drawn.rindex("</svg>")]
    # matplotlib's style sheet speaks of `*`, which in a page is every element of the page.
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    return view_box.group(1) if view_box else "0 0 1 1", body.lstrip()


def _recolour(body: str) -> str:
    # A variable is not read in an attribute, only in a style.
    body = re.sub(r'\b(fill|stroke)="(#[0-9a-f]{6})"', r'style="\1: \2"', body)
    for colour, name in _VARIABLES.items():
        body = body.replace(colour, f"var({name}, {colour})")
    # matplotlib writes the family by itself or, in older versions, in the shorthand after the size.
    body = re.sub(r"font-family: [^;\"]+", "font-family: var(--sans, sans-serif)", body)
    return re.sub(r"(font: (?:\S+ )*?[\d.]+px) '[^;\"]+", r"\1 var(--sans, sans-serif)", body)


def png(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG on white, sharp enough for a high-density screen.

    Args:
        figure: The figure.
        path: The file; an existing one is replaced.
    """
    with matplotlib.style.context(STYLE):
        figure.savefig(path, format="png", dpi=200, facecolor="white", metadata={"Software": None})
