"""Calibrations by name.

`default` is a mixture, because a mixture of domains keeps more abilities than any one of them
(arXiv 2606.03328), of text that is on every machine, so that the first command works offline; and
it is 8,192 tokens, because with fewer the draw's noise decides. A user's own text is better.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A named list of specs.

    Attributes:
        specs: In the one-line form; mixed by their weights.
        summary: A line about it.
    """

    specs: tuple[str, ...]
    summary: str


PRESETS = {
    "default": Preset(
        ("stdlib-prose,windows=8,length=512", "stdlib-code,windows=8,length=512"),
        "prose and code that every Python carries, half and half, 8,192 tokens",
    ),
}
