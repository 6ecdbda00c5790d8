"""A calibration as an object: mixed, fingerprinted, held out from, and doubted when small."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

import depthprune as dp
from depthprune.calibration import NOISY_BELOW, Calibration, calibrate, context_of
from depthprune.errors import CalibrationError, UsageError
from depthprune.evaluator.score import Weighting
from tiny import tiny_model, tiny_tokenizer

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
    def without(text: str, **options: object) -> object:
        assert len(text) < 9, "the text was tokenised before bos= was refused"
        return {"input_ids": [3, 4]}

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


def test_further_draws_raise_every_seed(text: Path) -> None:
    first = _drawn(f"text:{text},windows=4,length=32", f"text:{text},windows=2,length=16,seed=5")
    again = first.redraw(3)
    assert [part.spec.seed for part in again.parts] == [3, 8]
    same = _drawn(
        f"text:{text},windows=4,length=32,seed=3", f"text:{text},windows=2,length=16,seed=8"
    )
    assert again.fingerprint == same.fingerprint
    assert [part.share for part in again.parts] == [part.share for part in first.parts]
    assert first.redraw(0).fingerprint == first.fingerprint


def test_a_draw_or_a_split_that_there_is_none_of_is_refused(text: Path) -> None:
    spec = f"text:{text},windows=4,length=32"
    with pytest.raises(UsageError, match="redraw: expected from 0, which is this draw, got -1"):
        _drawn(spec).redraw(-1)
    with pytest.raises(UsageError, match="split: expected draw, held-out, whole, got 'held_out'"):
        calibrate(spec, _READER, split="held_out")  # type: ignore[arg-type]


def test_a_further_draw_reads_nothing_again(text: Path) -> None:
    drawn = _drawn(f"text:{text},windows=4,length=32")
    text.unlink()
    assert drawn.redraw(1).fingerprint != drawn.fingerprint


def _items(folder: Path, count: int = 20) -> Path:
    rows = [
        {
            "prompt": f"Which {i}?",
            "options": ["one", "the other"],
            "answer": i % 2,
            "of": "ab"[i % 2],
        }
        for i in range(count)
    ]
    file = folder / "items.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


def test_a_domain_is_the_document_s_own_else_the_tag_else_what_is_read(
    text: Path, tmp_path: Path
) -> None:
    line, items = f"text:{text},windows=2,length=16", f"choices:{_items(tmp_path)},windows=3"
    plain, tagged, own = (
        _drawn(line), _drawn(f"{line},domain=rivers"), _drawn(f"{items},domain_field=of,domain=x")
    )  # fmt: skip
    assert plain.domains == (f"text:{text}",) * 2
    assert tagged.domains == ("rivers",) * 2
    assert own.domains == tuple("ab"[window.start % 2] for window in own.windows)


def test_windows_weigh_by_their_tokens_and_items_each_the_same(text: Path, tmp_path: Path) -> None:
    drawn = _drawn(
        f"text:{text},windows=2,length=16,weight=3", f"choices:{_items(tmp_path)},windows=3"
    )
    assert [part.reduction for part in drawn.parts] == ["token", "window"]
    weighting = Weighting.of(drawn)
    assert weighting.weights() == pytest.approx([0.375, 0.375, 1 / 12, 1 / 12, 1 / 12])
    assert weighting.tokens.tolist() == [int(w.scored.sum()) for w in drawn.windows]


def test_windows_of_unequal_length_may_weigh_each_the_same(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    rows = [{"text": "the river " * (i + 1)} for i in range(20)]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    line = f"jsonl:{file},windows=all,pack=false,min_length=2,length=99"
    by_token, by_window = _drawn(line), _drawn(f"{line},reduction=window")
    counts = np.array([int(w.scored.sum()) for w in by_token.windows])
    assert Weighting.of(by_token).weights() == pytest.approx(counts / counts.sum())
    assert Weighting.of(by_window).weights() == pytest.approx(np.full(18, 1 / 18))


def test_the_worst_domain_s_mean_is_the_loss(text: Path, tmp_path: Path) -> None:
    items = f"choices:{_items(tmp_path)},windows=4,order=first,domain_field=of"
    drawn = _drawn(
        f"{items},reduction=worst-domain",
        f"text:{text},windows=2,length=16,reduction=worst-domain,domain=a",
    )
    assert drawn.worst_domain
    assert drawn.domains == ("a", "b", "a", "b", "a", "a")
    weighting = Weighting.of(drawn)
    losses = np.array([1.0, 5.0, 2.0, 7.0, 3.0, 4.0])
    assert weighting.mean(losses) == pytest.approx(6.0)
    assert weighting.mean(losses * [1, 0, 1, 0, 1, 1]) == pytest.approx((1 + 2 + 45 + 60) / 32)


def test_the_fingerprint_changes_with_the_reduction(text: Path) -> None:
    line = f"text:{text},windows=2,length=16"
    prints = {_drawn(line + end).fingerprint for end in ("", ",reduction=token")}
    assert len(prints) == 1
    ends = (",reduction=window", ",reduction=worst-domain", ",reduction=worst-domain,domain=x")
    assert len(prints | {_drawn(line + end).fingerprint for end in ends}) == 4


def test_the_fingerprint_changes_with_an_item_s_answer(text: Path, tmp_path: Path) -> None:
    file = _items(tmp_path)
    first = _drawn(f"choices:{file},windows=4").fingerprint
    content = file.read_text(encoding="utf-8")
    file.write_text(content.replace('"answer": 0', '"answer": 1'), encoding="utf-8")
    assert _drawn(f"choices:{file},windows=4").fingerprint != first


@pytest.mark.parametrize(
    ("reader", "expected"),
    [
        (SimpleNamespace(tokenizer=tiny_tokenizer()), None),
        (SimpleNamespace(tokenizer=SimpleNamespace(model_max_length=12)), 12),
        (SimpleNamespace(tokenizer=tiny_tokenizer(), context=9), 9),
        (SimpleNamespace(tokenizer=tiny_tokenizer(), module=tiny_model()), 128),
        (SimpleNamespace(tokenizer=tiny_tokenizer(), module=tiny_model("gpt2")), 128),
    ],
)
def test_the_longest_that_a_model_reads_is_known_from_its_config_or_files(
    reader: Any, expected: int | None
) -> None:
    assert context_of(reader) == expected


def test_items_longer_than_the_model_reads_are_refused_when_drawn(tmp_path: Path) -> None:
    reader = SimpleNamespace(tokenizer=tiny_tokenizer(), context=9)
    with pytest.raises(CalibrationError, match="the model reads 9; drop it, or lower shots="):
        calibrate(f"choices:{_items(tmp_path)},windows=4", reader)


def test_an_evaluator_refuses_items_that_its_model_cannot_read(
    tmp_path: Path, tiny_llama: Path
) -> None:
    drawn = _drawn(f"choices:{_items(tmp_path)},windows=4,format=few-shot,shots=9")
    with pytest.raises(CalibrationError, match="the model reads 128"):
        dp.Evaluator(dp.load(tiny_llama, dtype="float32", device="cpu"), drawn)


def test_bos_is_refused_of_items_where_the_tokenizer_has_none(tmp_path: Path) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer)
    reader = SimpleNamespace(tokenizer=bare)
    with pytest.raises(CalibrationError, match="bos=true, but the model's tokenizer has no BOS"):
        calibrate(f"choices:{_items(tmp_path)},bos=true", reader)


@pytest.mark.corpora
@pytest.mark.skipif(not (_CORPORA / "wikitext-2").is_dir(), reason=f"no corpora in {_CORPORA}")
def test_all_of_wikitext_is_covered_by_consecutive_windows() -> None:
    file = _CORPORA / "wikitext-2" / "test.txt"
    drawn = calibrate(f"text:{file},windows=all,length=2048", _READER, split="whole")
    whole = tiny_tokenizer().encode(file.read_text(encoding="utf-8"), add_special_tokens=False)
    covered = np.concatenate([w.tokens for w in drawn.windows])
    assert covered.tolist() == whole[: len(covered)]
    assert 0 <= len(whole) - len(covered) < 2048


def test_tokens_that_the_embedding_has_no_row_for_are_refused(text: Path) -> None:
    """A tokenizer that was extended, and a model that was not resized for it."""
    drawn = _drawn(f"text:{text},windows=4,length=32")
    most = max(int(window.tokens.max()) for window in drawn.windows)
    drawn.check_ids(most + 1)
    drawn.check_ids(None)
    with pytest.raises(
        CalibrationError, match=rf"has the id {most}, and the model's .* {most} rows"
    ):
        drawn.check_ids(most)
    short = SimpleNamespace(tokenizer=tiny_tokenizer(), rows=most)
    with pytest.raises(CalibrationError, match="resize the model"):
        calibrate([f"text:{text},windows=all,length=32"], short)
