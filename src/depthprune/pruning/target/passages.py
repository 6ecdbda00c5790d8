"""A text as passages, which are split as documents are.

Passages are cut at paragraphs, so that none begins in the middle of a thought; where there is no
paragraph's end for long, in the middle of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from depthprune.calibration import CalibrationSpec, Document

_PASSAGES = 96
_CHARACTERS = 4
"""Of a token, about."""


def cut_at_paragraphs(
    documents: Sequence[Document], spec: CalibrationSpec, largest: float
) -> list[Document]:
    """Documents, those that are a large share of the text as passages.

    Args:
        documents: The text.
        spec: Whose windows are to fit.
        largest: The share of the text that a document may have whole.
    """
    most = largest * sum(len(document.text) for document in documents)
    found: list[Document] = []
    for document in documents:
        found += passages(document, spec) if len(document.text) > most else [document]
    return found


def passages(document: Document, spec: CalibrationSpec) -> list[Document]:
    """A text cut at its paragraphs into passages, of a window's length at the least.

    Args:
        document: The text.
        spec: Whose windows are to fit.
    """
    least = _CHARACTERS * spec.length
    size = min(max(least, len(document.text) // _PASSAGES), 64 * least)
    gap = "\r\n\r\n" if "\r\n\r\n" in document.text else "\n\n"
    paragraphs: list[list[str]] = []
    last = size
    for paragraph in document.text.split(gap):
        if last < size and len(paragraph) <= size:
            paragraphs[-1].append(paragraph)
            last += len(paragraph) + len(gap)
        else:
            # Text without paragraphs is cut where it must be.
            cut = [paragraph[i : i + size] for i in range(0, len(paragraph), size)] or [""]
            paragraphs += [[each] for each in cut]
            last = len(cut[-1])
    found = [gap.join(each) for each in paragraphs]
    if len(found) > 1 and len(found[-1]) < size // 2:
        short = found.pop()
        found[-1] += gap + short
    return [
        replace(document, name=f"{document.name}#{number}", text=text, note="")
        for number, text in enumerate(found)
        if text.strip()
    ]
