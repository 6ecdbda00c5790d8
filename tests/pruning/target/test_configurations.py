"""What decides or judges is in no draw of a calibration that is tried."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from depthprune.errors import CalibrationError
from depthprune.pruning.target.configurations import (
    Configuration,
    Reader,
    configurations,
    target_objective,
)
from depthprune.pruning.target.options import parse_split
from depthprune.pruning.target.portfolio import PORTFOLIO, Row, rows_for
from depthprune.pruning.target.split import split_target, target_specs
from tiny import tiny_tokenizer

_TEMPLATE = (
    "[system] You are a helpful assistant that was trained by nobody in particular and answers "
    "whatever it is asked in one word.\n"
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
)


def _text(seed: int, words: int) -> str:
    drawn = random.Random(seed)
    return " ".join(f"{drawn.choice('bdfgklm')}{drawn.randrange(999)}" for _ in range(words))


def _tried(target: str, spec: str, draws: int = 2, *more: Row) -> list[Configuration]:
    core = tiny_tokenizer().backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", chat_template=_TEMPLATE
    )
    reader: Any = SimpleNamespace(tokenizer=tokenizer)
    split = split_target(target_specs([target]), reader, parse_split("50,25,25"), 0)
    row = Row(name="given", calibration=(spec,), objective="nll", draws=draws)
    objective = target_objective(split, None)
    return configurations([*more, row], split, objective, Reader(reader), asked=False)


def _chats(file: Path, first: int) -> Path:
    rows = [
        [{"role": "user", "content": _text(i, 20)}, {"role": "assistant", "content": _text(-i, 4)}]
        for i in range(first, first + 60)
    ]
    file.write_text("\n".join(json.dumps({"messages": row}) for row in rows), encoding="utf-8")
    return file


def test_chats_that_share_a_system_prompt_alone_do_not_overlap(tmp_path: Path) -> None:
    ours, theirs = _chats(tmp_path / "a.jsonl", 100), _chats(tmp_path / "b.jsonl", 200)
    assert len(_tried(f"jsonl:{ours}", f"jsonl:{theirs}")) == 2
    with pytest.raises(CalibrationError, match=r"b\.jsonl: it shares 13 words in a row"):
        _tried(f"jsonl:{theirs}", f"jsonl:{theirs}")


def test_what_overlaps_is_refused_before_the_model_is_loaded_to_write(tmp_path: Path) -> None:
    ours = _chats(tmp_path / "a.jsonl", 100)
    writes = Row(name="self", calibration=("self,windows=2,length=16",), objective="nll")
    with pytest.raises(CalibrationError, match=r"a\.jsonl: it shares 13 words in a row"):
        _tried(f"jsonl:{ours}", f"jsonl:{ours}", 2, writes)


def test_every_draw_is_compared_with_what_decides_and_judges(tmp_path: Path) -> None:
    ours = _text(1, 2400)
    other = [_text(i, 2400) for i in range(2, 8)]
    (tmp_path / "a.txt").write_text(ours, encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n".join([*other[:3], ours, *other[3:]]), encoding="utf-8")
    words = (f"text:{tmp_path / 'a.txt'},length=128",
             f"text:{tmp_path / 'b.txt'},length=128,windows=2,seed=5")  # fmt: skip
    assert len(_tried(*words)) == 2
    with pytest.raises(CalibrationError, match=r"b\.txt: it shares 13 words in a row"):
        _tried(*words, draws=3)


def test_what_is_left_out_of_what_is_tried_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = _chats(tmp_path / "a.jsonl", 100), _chats(tmp_path / "b.jsonl", 200)
    with theirs.open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps({"messages": [{"role": "user", "content": "half \ud83d"}]}))
    assert len(_tried(f"jsonl:{ours}", f"jsonl:{theirs}")) == 2
    (said,) = caplog.messages
    assert said.startswith(f"-c jsonl:{theirs}: {theirs}:61: half a surrogate pair")


@pytest.mark.parametrize("given", ["self", "default"])
def test_what_the_table_tries_already_may_be_given_too(given: str) -> None:
    rows = rows_for(None, [given], "nll")
    assert rows[:-1] == PORTFOLIO
    assert (rows[-1].name, rows[-1].calibration) == (f"-c {given}", (given,))
