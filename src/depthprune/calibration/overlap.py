"""Text that is read twice: repeated documents, and windows that evaluation files contain.

A calibration that holds the evaluation's own text makes its figures worthless. Overlap is judged
as it is for training sets: two texts overlap if they share so many words in a row, words being
lower-case letters and digits, whatever stands between them (13 words: Brown et al. 2020, arXiv
2005.14165, appendix C). A window of fewer words than that is compared whole; below five words
nothing is said of it. What most windows have in common (a system prompt, an instruction) is their
form, and nobody's text.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from depthprune.calibration.reading.documents import Document, json_lines
from depthprune.calibration.reading.files import PACKINGS, whole_text
from depthprune.calibration.spec import CalibrationSpec
from depthprune.calibration.windows import Window
from depthprune.errors import CalibrationError

Gram = tuple[str, ...]

_FEWEST_WORDS = 5
_PIECE = 2**20
"""Characters whose words are looked at together; each word takes many times its letters."""
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
    if len(documents) == 1:
        return list(documents)
    seen: set[tuple[bytes, ...]] = set()
    kept = []
    for document in documents:
        texts = (document.prompt or "", document.text, *document.options)
        key = tuple(map(_digest, texts))
        if key not in seen:
            seen.add(key)
            kept.append(document)
    return kept


def _digest(text: str) -> bytes:
    """What is alike of texts that differ in case and whitespace alone."""
    found, begun, within = hashlib.blake2b(digest_size=16), False, False
    for start in range(0, len(text), _PIECE):
        piece = text[start : start + _PIECE]
        words = " ".join(piece.lower().split())
        if words:
            goes_on = not begun or (within and not piece[0].isspace())
            found.update((words if goes_on else f" {words}").encode("utf-8", "surrogatepass"))
            begun = True
        within = not piece[-1].isspace()
    return found.digest()


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
    wanted = [_looked_for(runs, ngram) for runs in _own_runs(texts, ngram)]
    every = set[Gram]().union(*wanted)
    sizes = {len(gram) for gram in every}
    known: set[Gram] = set()
    for other in others:
        for size in sizes:
            known.update(gram for gram in _grams(other, size) if gram in every)
    return tuple(
        window.document
        for window, grams in zip(windows, wanted, strict=True)
        if not known.isdisjoint(grams)
    )


def _own_runs(texts: Sequence[list[str]], ngram: int) -> list[list[list[str]]]:
    """Each text without what most of them have in common: the runs of words that are left."""
    grams = [list(_grams(words, min(ngram, len(words)))) for words in texts]
    counts = Counter(gram for each in grams for gram in set(each))
    form = {gram for gram, count in counts.items() if count > max(2, len(texts) / 2)}
    found = []
    for words, each in zip(texts, grams, strict=True):
        common = np.zeros(len(words) + 1, dtype=np.bool_)
        for place, gram in enumerate(each):
            common[place : place + len(gram)] |= gram in form
        common[-1] = True
        ends, runs, start = np.flatnonzero(common).tolist(), [], 0
        for end in ends:
            runs.append(words[start:end])
            start = end + 1
        found.append(runs)
    return found


def _looked_for(runs: Sequence[list[str]], ngram: int) -> set[Gram]:
    """The words in a row by which a window is known; all of it where it has fewer."""
    long = [run for run in runs if len(run) >= ngram] or [max(runs, key=len)]
    kept = (run for run in long if len(run) >= _FEWEST_WORDS)
    return {gram for run in kept for gram in _grams(run, min(ngram, len(run)))}


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


def _grams(words: Sequence[str], size: int) -> Iterator[Gram]:
    return (tuple(words[i : i + size]) for i in range(len(words) - size + 1))


def _records(name: str) -> Iterable[str]:
    """The texts of an evaluation file: its rows where it is JSON, else the whole."""
    suffix = next((s for s in reversed(Path(name).suffixes) if s not in PACKINGS), "")
    if suffix in (".jsonl", ".ndjson"):
        return (" ".join(_strings(row)) for _, row in json_lines(name))
    if suffix == ".json":
        try:
            rows = json.loads(whole_text(name))
        except ValueError as error:
            raise CalibrationError(f"{name}: not JSON ({error}); mend it") from error
        return (" ".join(_strings(row)) for row in (rows if isinstance(rows, list) else [rows]))
    return [whole_text(name)]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
