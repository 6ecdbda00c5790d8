"""Presets are specs by name; those of peers read from the hub, and say so when it is away."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import datasets
import pytest

from depthprune.calibration import PRESETS, calibrate, parse_calibration
from depthprune.errors import CalibrationError
from tiny import tiny_tokenizer

_READER = SimpleNamespace(tokenizer=tiny_tokenizer())
_HUB = [name for name in PRESETS if name != "default"]
_QUESTION = (
    "Please choose the correct solution to the question: {}\n\n"
    "Solution1: sand\n\nSolution2: water\n\nAnswer format: solution1/solution2"
)


def test_the_paper_s_and_the_peers_calibrations_have_names() -> None:
    assert {"paper-ppl", "paper-margin", "sleb", "evopress", "shortened-llm"} <= set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_valid_mixture(name: str) -> None:
    specs = parse_calibration(name)
    assert [spec.line() for spec in parse_calibration([s.line() for s in specs])] == [
        spec.line() for spec in specs
    ]
    assert PRESETS[name].summary


@pytest.mark.parametrize("name", _HUB)
def test_a_published_preset_says_which_objective_goes_with_it(name: str) -> None:
    assert "--objective" in PRESETS[name].note


@pytest.mark.parametrize("name", _HUB)
def test_a_hub_preset_out_of_reach_says_so_in_one_line(
    name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(CalibrationError, match="could not be reached or read") as caught:
        calibrate(name, _READER)
    assert "\n" not in str(caught.value)


def _hub(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, str]]) -> list[Any]:
    asked: list[Any] = []

    def load_dataset(*arguments: Any, **options: Any) -> list[dict[str, str]]:
        asked.append((arguments, options))
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def _pages(count: int, words: int) -> list[dict[str, str]]:
    return [{"text": f"Page {i}. " + "the river rises. " * words} for i in range(count)]


def test_paper_ppl_is_64_windows_of_2048_tokens_of_c4(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _hub(monkeypatch, _pages(200, 250))
    drawn = calibrate("paper-ppl", _READER)
    assert (len(drawn.windows), drawn.tokens) == (64, 64 * 2048)
    ((arguments, options),) = asked
    assert arguments == ("allenai/c4", None)
    assert options["streaming"]
    assert options["data_files"] == {"train": "en/c4-train.00000-of-01024.json.gz"}


def test_paper_margin_is_128_items_of_commonsense_170k(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"instruction": _QUESTION.format(f"Is {i} wet?"), "answer": "solution2"}
            for i in range(200)]  # fmt: skip
    _hub(monkeypatch, rows)
    drawn = calibrate("paper-margin", _READER)
    assert len(drawn.windows) == 128
    assert all(window.item is not None and window.item.answer == 1 for window in drawn.windows)


def test_sleb_reads_128_lines_in_consecutive_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    _hub(monkeypatch, [{"text": ""}, *_pages(400, 8)])
    drawn = calibrate("sleb", _READER)
    assert {len(window.tokens) for window in drawn.windows} == {2048}
    assert [window.start for window in drawn.windows] == [
        2048 * i for i in range(len(drawn.windows))
    ]


def test_evopress_reads_unjoined_pages_up_to_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    _hub(monkeypatch, _pages(300, 100))
    drawn = calibrate("evopress", _READER)
    longest = max(len(window.tokens) for window in drawn.windows)
    assert 131_072 - longest < drawn.tokens <= 131_072
    assert len({window.document for window in drawn.windows}) == len(drawn.windows)


def test_shortened_llm_is_small_and_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    _hub(monkeypatch, _pages(60, 30))
    drawn = calibrate("shortened-llm", _READER)
    assert (len(drawn.windows), drawn.tokens) == (10, 1280)
    assert {int(window.tokens[0]) for window in drawn.windows} == {tiny_tokenizer().bos_token_id}
    (warning,) = drawn.warnings()
    assert warning.startswith("1,280 calibration tokens")


def test_no_more_rows_are_read_than_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    _hub(monkeypatch, _pages(50, 5))
    drawn = calibrate("hub:a/b,rows=20,pack=false,min_length=2,windows=all", _READER, split="whole")
    assert len(drawn.windows) == 20
