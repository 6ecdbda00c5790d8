"""A calibration as an object: mixed, fingerprinted, held out from, and doubted when small."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from depthprune.calibration import NOISY_BELOW, Calibration, calibrate
from depthprune.errors import CalibrationError
from tiny import tiny_tokenizer

_TEXT = "".join(
    f"Line {i}: the river is {i * i % 97} feet high at the bridge.\n" for i in range(400)
)
_READER = SimpleNamespace(tokenizer=tiny_tokenizer())
_CORPORA = Path(
    os.environ.get("DEPTHPRUNE_CORPORA", Path(__file__).parents[2] / ".." / "shared" / "data")
)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "a.txt"
    file.write_text(_TEXT, encoding="utf-8")
    return file


def _drawn(*specs: str) -> Calibration:
    return calibrate(list(specs), _READER)


def test_windows_are_pieces_of_the_text_tokenised_whole(text: Path) -> None:
    whole = tiny_tokenizer().encode(_TEXT, add_special_tokens=False)
    for window in _drawn(f"text:{text},windows=8,length=32").windows:
        assert window.tokens.tolist() == whole[window.start : window.start + 32]
        assert window.document == str(text)


def test_tokens_are_counted_over_all_sources(text: Path) -> None:
    drawn = _drawn(f"text:{text},windows=4,length=32", f"text:{text},windows=2,length=16,seed=1")
    assert [part.tokens for part in drawn.parts] == [128, 32]
    assert (drawn.tokens, len(drawn.windows)) == (160, 6)


def test_shares_come_from_weights_and_not_from_sizes(text: Path) -> None:
    drawn = _drawn(
        f"text:{text},windows=8,length=32,weight=3", f"text:{text},windows=1,length=16,weight=1"
    )
    assert [part.share for part in drawn.parts] == [0.75, 0.25]


def test_the_name_is_what_is_read(text: Path) -> None:
    line = f"text:{text},windows=2,length=16"
    assert _drawn(line, line).name == f"text:{text} + text:{text}"


def test_the_fingerprint_does_not_depend_on_how_a_spec_is_written(text: Path) -> None:
    one = _drawn(f"text:{text},windows=2,length=16,seed=0")
    assert one.fingerprint == _drawn(f"text:{text} , length=16,windows=2,order=random").fingerprint


def test_the_fingerprint_does_not_depend_on_where_the_text_lies(text: Path) -> None:
    other = text.with_name("b.txt")
    other.write_text(_TEXT, encoding="utf-8")
    prints = {_drawn(f"text:{f},windows=2,length=16").fingerprint for f in (text, other)}
    assert len(prints) == 1


@pytest.mark.parametrize("change", ["seed=1", "windows=3", "length=17", "bos=true", "order=first"])
def test_the_fingerprint_changes_with_the_tokens(change: str, text: Path) -> None:
    keys = {"windows": "2", "length": "16"} | dict([change.split("=")])
    changed = ",".join([f"text:{text}", *(f"{key}={value}" for key, value in keys.items())])
    assert _drawn(changed).fingerprint != _drawn(f"text:{text},windows=2,length=16").fingerprint


def test_the_fingerprint_changes_with_the_weights(text: Path) -> None:
    first, second = f"text:{text},windows=2,length=16", f"text:{text},windows=2,length=16,seed=1"
    even, uneven = _drawn(first, second), _drawn(f"{first},weight=2", second)
    assert even.fingerprint != uneven.fingerprint
    assert [p.fingerprint for p in even.parts] == [p.fingerprint for p in uneven.parts]
    assert even.fingerprint == _drawn(f"{first},weight=2", f"{second},weight=2").fingerprint


def test_a_window_cut_in_two_is_not_the_same_window(text: Path) -> None:
    whole = _drawn(f"text:{text},windows=1,length=32,order=first")
    halves = _drawn(f"text:{text},windows=2,length=16,order=first")
    tokens = [np.concatenate([w.tokens for w in c.windows]).tolist() for c in (whole, halves)]
    assert tokens[0] == tokens[1]
    assert whole.fingerprint != halves.fingerprint


def test_the_fingerprint_changes_with_what_is_scored(text: Path) -> None:
    (part,) = _drawn(f"text:{text},windows=1,length=16").parts
    (window,) = part.windows
    fewer = replace(window, scored=np.arange(16) > 8)
    assert replace(part, windows=(fewer,)).fingerprint != part.fingerprint


def test_held_out_windows_share_no_token_with_any_draw(text: Path) -> None:
    total = len(tiny_tokenizer().encode(_TEXT, add_special_tokens=False))
    border = total - total // 10
    for seed in range(5):
        drawn = _drawn(f"text:{text},windows=4,length=64,seed={seed}")
        (held,) = drawn.held_out()
        assert all(w.start + 64 <= border for w in drawn.windows)
        assert all(w.start >= border for w in held.windows)


def test_each_source_is_held_out_from_apart(text: Path) -> None:
    line = f"text:{text},windows=2,length=16"
    held = _drawn(f"{line},weight=3", f"{line},seed=1").held_out()
    assert [[part.share for part in each.parts] for each in held] == [[1.0], [1.0]]
    assert [each.parts[0].spec.seed for each in held] == [0, 1]


def test_bos_begins_every_window(text: Path) -> None:
    drawn = _drawn(f"text:{text},windows=4,length=16,bos=true")
    assert {int(w.tokens[0]) for w in drawn.windows} == {tiny_tokenizer().bos_token_id}


def test_bos_is_refused_where_the_tokenizer_has_none(text: Path) -> None:
    def without(texts: list[str], **options: object) -> object:
        raise AssertionError("the text was tokenised before bos= was refused")

    without.bos_token_id = None  # type: ignore[attr-defined]
    with pytest.raises(CalibrationError, match="the model's tokenizer has no BOS token; drop bos="):
        calibrate(f"text:{text},bos=true", SimpleNamespace(tokenizer=without))


def test_fewer_than_8000_tokens_are_warned_of(text: Path) -> None:
    (warning,) = _drawn(f"text:{text},windows=4,length=32").warnings()
    assert warning.startswith("128 calibration tokens: below about 8,000 the noise of the draw")


def test_enough_tokens_are_not_warned_of(text: Path) -> None:
    windows = math.ceil(NOISY_BELOW / 32)
    assert _drawn(f"text:{text},windows={windows},length=32").warnings() == []


def test_a_text_longer_than_the_tokenizer_thinks_wise_is_read_without_a_word(
    text: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _drawn(f"text:{text},windows=4,length=32")
    assert capfd.readouterr() == ("", "")


@pytest.mark.corpora
@pytest.mark.skipif(not (_CORPORA / "wikitext-2").is_dir(), reason=f"no corpora in {_CORPORA}")
def test_all_of_wikitext_is_covered_by_consecutive_windows() -> None:
    file = _CORPORA / "wikitext-2" / "test.txt"
    drawn = calibrate(f"text:{file},windows=all,length=2048", _READER, split="whole")
    whole = tiny_tokenizer().encode(file.read_text(encoding="utf-8"), add_special_tokens=False)
    covered = np.concatenate([w.tokens for w in drawn.windows])
    assert covered.tolist() == whole[: len(covered)]
    assert 0 <= len(whole) - len(covered) < 2048
