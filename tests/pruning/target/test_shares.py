"""Questions on one passage are in one part; what very many share is an instruction."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from depthprune.calibration import Document
from depthprune.calibration.reading.chats import Chat
from depthprune.pruning.target.options import parse_split
from depthprune.pruning.target.shares import shared_out


def _passage(number: int) -> str:
    return f"Of river {number} it is told: " + "it rose by a foot and fell again. " * 8


def _row(place: int, asked: str) -> Document:
    return Document(name=f"row {place}", text=" yes", prompt=asked)


def _chat(place: int, asked: str) -> Document:
    turns = ({"role": "user", "content": asked}, {"role": "assistant", "content": _passage(0)})
    return Document(name=f"row {place}", text="yes", chat=Chat(turns))


def _parts(documents: list[Document], seed: int = 0) -> tuple[list[int], list[int], list[int]]:
    rng = np.random.default_rng(seed)
    return shared_out(documents, [1] * len(documents), parse_split("50,25,25"), rng)


@pytest.mark.parametrize("make", [_row, _chat])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_questions_on_one_passage_are_in_one_part(
    make: Callable[[int, str], Document], seed: int
) -> None:
    # Four questions on each of 25 passages, which do not stand together.
    documents = [
        make(place, f"{_passage(place % 25)}\nQuestion: what of {place}?\nAnswer:")
        for place in range(100)
    ]
    parts = _parts(documents, seed)
    read = [{place % 25 for place in part} for part in parts]
    assert sum(map(len, read)) == len(set.union(*read)) == 25
    assert sorted(place for part in parts for place in part) == list(range(100))
    # A passage that reaches over a border goes to the part behind it.
    assert [len(part) for part in parts] == [48, 24, 28]


def test_an_instruction_before_every_question_keeps_none_together() -> None:
    asked = [f"{_passage(0)}\nQuestion: what of {place}?" for place in range(80)]
    alone = [f"Question: what of {place}?" for place in range(80)]
    told, plain = (
        _parts([_row(place, each) for place, each in enumerate(words)]) for words in (asked, alone)
    )
    assert told == plain
    assert [len(part) for part in told] == [40, 20, 20]


def test_an_answer_that_is_repeated_is_no_passage() -> None:
    chats = [_chat(place, f"What of {place}?") for place in range(80)]
    rows = [_row(place, f"What of {place}?") for place in range(80)]
    assert _parts(chats) == _parts(rows)
