"""Text that is read twice: repeated documents, and windows that evaluation files contain.

A calibration that holds the evaluation's own text makes its figures worthless. Overlap is judged
as it is for training sets: two texts overlap if they share so many words in a row, words being
lower-case letters and digits, whatever stands between them (13 words: Brown et al. 2020, arXiv
2005.14165, appendix C). A window of fewer words than that is compared whole; below five words
nothing is said of it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthprune.calibration.reading.documents import Document, json_lines, utf8
from depthprune.calibration.spec import CalibrationSpec
from depthprune.calibration.windows import Window
from depthprune.errors import CalibrationError

_FEWEST_WORDS = 5
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Overlap:
    """What a calibration's windows share with evaluation files.

    Attributes:
        files: The files.
        ngram: Words in a row that count as shared.
        documents: Of each window that shares any, the document in which it begins.
        windows: How many windows were looked at.
    """

    files: tuple[str, ...]
    ngram: int
    documents: tuple[str, ...]
    windows: int

    @property
    def share(self) -> float:
        """Share of the windows that overlap."""
        return len(self.documents) / self.windows

    def words(self) -> str:
        """A line that says so."""
        return (
            f"{len(self.documents)} of {self.windows} windows share {self.ngram} words in a row "
            f"with {', '.join(self.files)}"
        )


def without_repeats(documents: Sequence[Document]) -> list[Document]:
    """The documents, of equal ones the first; case and whitespace make no difference."""
    seen: set[tuple[str, ...]] = set()
    kept = []
    for document in documents:
        texts = (document.prompt or "", document.text, *document.options)
        key = tuple(" ".join(text.lower().split()) for text in texts)
        if key not in seen:
            seen.add(key)
            kept.append(document)
    return kept


def measure_overlap(spec: CalibrationSpec, windows: Sequence[Window], tokenizer: Any) -> Overlap:
    """How many windows share words with the spec's evaluation files.

    Args:
        spec: Names the files, the number of words and the share that is allowed.
        windows: What was drawn.
        tokenizer: Turns tokens back into text.

    Raises:
        CalibrationError: If a file cannot be read, or more windows overlap than are allowed.
    """
    records = (record for name in spec.against for record in _records(name))
    shared = shared_documents(windows, map(_words, records), tokenizer, spec.ngram)
    found = Overlap(spec.against, spec.ngram, shared, len(windows))
    if found.share > spec.overlap:
        raise CalibrationError(
            f"{spec.short()}: {found.words()}, the first {shared[0]}; calibrate on other text, or "
            f"pass overlap={math.ceil(found.share * 100) / 100:g} to allow it"
        )
    return found


def shared_documents(
    windows: Sequence[Window], others: Iterable[Sequence[str]], tokenizer: Any, ngram: int = 13
) -> tuple[str, ...]:
    """Of each window that shares words with other texts, the document in which it begins.

    Args:
        windows: What is looked at.
        others: The words of the other texts.
        tokenizer: Turns tokens back into text.
        ngram: Words in a row that count as shared.
    """
    texts = [window_words(window, tokenizer) for window in windows]
    sizes = {min(ngram, len(words)) for words in texts if len(words) >= _FEWEST_WORDS}
    known: set[tuple[str, ...]] = set()
    for other in others:
        for size in sizes:
            known.update(_grams(other, size))
    return tuple(
        window.document
        for window, words in zip(windows, texts, strict=True)
        if len(words) >= _FEWEST_WORDS
        and any(gram in known for gram in _grams(words, min(ngram, len(words))))
    )


def window_words(window: Window, tokenizer: Any) -> list[str]:
    """A window's words; an item's are its prompt's, or the correct option's where it has none."""
    if window.item is None:
        # The window may begin and end within a word.
        return _words(str(tokenizer.decode(window.tokens.tolist())))[1:-1]
    prompt = window.tokens[: window.item.spans[0][0]].tolist()
    words = _words(str(tokenizer.decode(prompt, skip_special_tokens=True)))
    if len(words) >= _FEWEST_WORDS:
        return words
    start, stop = window.item.spans[window.item.answer]
    return _words(str(tokenizer.decode(window.tokens[start:stop].tolist())))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _grams(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[i : i + size]) for i in range(len(words) - size + 1))


def _records(name: str) -> Iterable[str]:
    """The texts of an evaluation file: its rows where it is JSON, else the whole."""
    suffix = Path(name).suffix
    if suffix in (".jsonl", ".ndjson"):
        return (" ".join(_strings(row)) for _, row in json_lines(name))
    if suffix == ".json":
        try:
            rows = json.loads(utf8(name))
        except ValueError as error:
            raise CalibrationError(f"{name}: not JSON ({error}); mend it") from error
        return (" ".join(_strings(row)) for row in (rows if isinstance(rows, list) else [rows]))
    return [utf8(name)]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
