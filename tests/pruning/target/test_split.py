"""A target's three parts share no document, and too little for them is said with what is needed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import depthprune as dp
from depthprune.errors import CalibrationError, UsageError
from depthprune.pruning.target.options import parse_split
from depthprune.pruning.target.passages import passages
from depthprune.pruning.target.split import (
    LEAST_WINDOWS,
    Target,
    split_target,
    target_specs,
)


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> dp.Model:
    return dp.load(tiny_llama, dtype="float32")


def _split(model: dp.Model, *specs: str, shares: str = "50,25,25", seed: int = 0) -> Target:
    return split_target(target_specs(specs), model, parse_split(shares), seed)


def _choices(folder: Path, count: int) -> Path:
    rows = [
        {"prompt": f"Question: {i} and {i + 1}\nAnswer:", "options": [f"{2 * i + 1}", "none"],
         "answer": i % 2}
        for i in range(count)
    ]  # fmt: skip
    file = folder / f"items{count}.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return file


def _prose(folder: Path, lines: int = 600) -> Path:
    file = folder / f"prose{lines}.txt"
    text = (f"Line {i}: the river is {i * i % 97} feet high." for i in range(lines))
    file.write_text("\n\n".join(text), encoding="utf-8")
    return file


def test_no_item_is_in_two_parts_and_every_item_is_in_one(model: dp.Model, tmp_path: Path) -> None:
    (goal,) = _split(model, f"choices:{_choices(tmp_path, 80)}").goals
    named = [{d.name for d in source.pool.documents} for source in goal.sources]  # type: ignore[attr-defined]
    assert [len(names) for names in named] == [40, 20, 20]
    assert len(set.union(*named)) == 80
    assert goal.kind == "choices"
    drawn = {window.document for seed in range(3) for window in goal.draw(seed).windows}
    assert drawn <= named[0]
    assert {window.document for window in goal.choose.windows} == named[1]
    assert {window.document for window in goal.judge.windows} == named[2]


def test_the_seed_decides_the_split_and_the_same_one_gives_the_same(
    model: dp.Model, tmp_path: Path
) -> None:
    spec = f"choices:{_choices(tmp_path, 80)}"
    first, again, other = (_split(model, spec, seed=seed) for seed in (0, 0, 1))
    assert first.choose.fingerprint == again.choose.fingerprint
    assert first.choose.fingerprint != other.choose.fingerprint


@pytest.mark.parametrize("shares", ["70,15,15", "56,24,20", "34,33,33"])
def test_parts_have_their_shares_to_the_item_in_the_order_of_the_file(
    model: dp.Model, tmp_path: Path, shares: str
) -> None:
    (goal,) = _split(model, f"choices:{_choices(tmp_path, 100)}", shares=shares).goals
    assert ",".join(map(str, goal.documents)) == shares
    for source in goal.sources:
        prompts = [d.prompt or "" for d in source.pool.documents]  # type: ignore[attr-defined]
        assert prompts == sorted(prompts, key=lambda prompt: int(prompt.split()[1]))


def test_repeated_items_stand_in_one_part_only(model: dp.Model, tmp_path: Path) -> None:
    file = _choices(tmp_path, 60)
    file.write_text(file.read_text(encoding="utf-8") * 2, encoding="utf-8")
    assert sum(_split(model, f"choices:{file}").goals[0].documents) == 60


def test_a_text_of_one_document_is_cut_into_passages_that_are_the_whole_of_it(
    model: dp.Model, tmp_path: Path
) -> None:
    file = _prose(tmp_path)
    spec = target_specs([f"text:{file},length=16"])[0]
    found = passages(dp.calibration.Document("a", file.read_text(encoding="utf-8")), spec)
    assert "\n\n".join(piece.text for piece in found) == file.read_text(encoding="utf-8")
    windows = file.read_text(encoding="utf-8").replace("\n", "\r\n")
    same = passages(dp.calibration.Document("a", windows), spec)
    assert "\r\n\r\n".join(piece.text for piece in same) == windows
    (goal,) = _split(model, f"text:{file},length=16").goals
    assert goal.passages
    assert goal.kind == "text"
    assert all(count >= LEAST_WINDOWS for count in map(len, (goal.choose.windows,)))


def test_of_prompts_and_chats_only_the_answer_counts(model: dp.Model, tmp_path: Path) -> None:
    rows = [{"q": f"How high is river {i}?", "a": f"It is {i * 7 % 31} feet."} for i in range(64)]
    file = tmp_path / "asked.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    (goal,) = _split(model, f"jsonl:{file},prompt=q,answer=a,length=96").goals
    assert (goal.kind, goal.spec.format, goal.spec.mask) == ("answers", "zero-shot", "answer")
    asked, whole = goal.draw(0), goal.draw(0, whole=True)
    assert all(0 < w.scored.sum() < len(w.tokens) - 1 for w in asked.windows)
    assert all(w.scored.sum() == len(w.tokens) - 1 for w in whole.windows)


def test_two_goals_share_by_their_weights(model: dp.Model, tmp_path: Path) -> None:
    target = _split(
        model,
        f"choices:{_choices(tmp_path, 80)},weight=3",
        f"text:{_prose(tmp_path)},length=16",
    )
    assert [part.share for part in target.choose.parts] == [0.75, 0.25]
    assert [goal.draw(0, 0.5).share for goal in target.goals] == [0.375, 0.125]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: f"choices:{_choices(f, 20)}", "give 32 or more"),
        (lambda f: f"text:{_prose(f, 40)},length=64", "give about 2,560 tokens of text or more"),
    ],
)
def test_too_little_says_how_much_is_needed(
    make: object, words: str, model: dp.Model, tmp_path: Path
) -> None:
    with pytest.raises(CalibrationError, match=words) as refused:
        _split(model, make(tmp_path))  # type: ignore[operator]
    assert "\n" not in str(refused.value)


def test_what_is_said_to_be_enough_is_enough(model: dp.Model, tmp_path: Path) -> None:
    assert len(_split(model, f"choices:{_choices(tmp_path, 32)}").choose.windows) == LEAST_WINDOWS


@pytest.mark.parametrize("shares", ["50,50", "50,25,30", "a,b,c", "100,0,0", "-10,60,50"])
def test_shares_are_three_and_sum_to_a_hundred(shares: str) -> None:
    with pytest.raises(UsageError, match="--for-split: expected three percentages"):
        parse_split(shares)


@pytest.mark.parametrize(
    "key", ["seed=3", "windows=4", "order=first", "tokens=1000", "documents=9"]
)
def test_keys_that_the_split_decides_are_refused(key: str) -> None:
    with pytest.raises(UsageError, match=f"{key.partition('=')[0]}= means nothing here"):
        target_specs([f"text:a.txt,{key}"])


def test_a_target_that_overlaps_with_a_benchmark_is_refused(
    model: dp.Model, tmp_path: Path
) -> None:
    file = _prose(tmp_path)
    with pytest.raises(CalibrationError, match="share 13 words in a row"):
        _split(model, f"text:{file},length=64,against={file}")


def test_the_models_own_text_is_no_task() -> None:
    with pytest.raises(UsageError, match="--for self: a task is what people wrote"):
        target_specs(["self"])


def test_a_text_is_cut_behind_a_heading_too(model: dp.Model, tmp_path: Path) -> None:
    spec = target_specs(["text:a.txt,length=16"])[0]
    log = "\n".join(f"Line {i}: the river is {i * i % 97} feet high." for i in range(600))
    text = f"Rivers\n\n{log}"
    found = passages(dp.calibration.Document("a", text), spec)
    assert len(found) > 90
    assert "".join(piece.text for piece in found).replace("\n", "") == text.replace("\n", "")


def test_of_many_documents_one_that_is_most_of_the_text_is_cut(
    model: dp.Model, tmp_path: Path
) -> None:
    for number in range(30):
        file = _prose(tmp_path, 3000 if number == 7 else 10 + number)
        file.rename(tmp_path / f"{number}.txt")
    for seed in range(4):
        (goal,) = _split(model, f"text:{tmp_path},length=16", seed=seed).goals
        assert goal.passages
        assert sum(goal.documents) < 29 + 100
        assert all(len(part.windows) > 100 for part in (goal.choose, goal.judge))


def test_what_a_template_refuses_is_said_whatever_the_file_is_called(
    model: dp.Model, tmp_path: Path
) -> None:
    turns = ({"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."})
    rows = [{"messages": [*turns, {"role": "user", "content": f"{i}?"}]} for i in range(64)]
    file = tmp_path / "needs.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    with pytest.raises(CalibrationError, match="and the model's tokenizer has no chat template"):
        _split(model, f"jsonl:{file}")


def test_a_mask_that_was_asked_for_is_kept(model: dp.Model, tmp_path: Path) -> None:
    rows = [{"q": f"How high is river {i}?", "a": f"It is {i * 7 % 31} feet."} for i in range(64)]
    file = tmp_path / "asked.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    spec = f"jsonl:{file},prompt=q,answer=a,format=zero-shot,mask=last,length=96"
    (goal,) = _split(model, spec).goals
    assert {int(window.scored.sum()) for window in goal.choose.windows} == {1}


def test_a_form_that_was_asked_for_is_kept_or_refused(model: dp.Model, tmp_path: Path) -> None:
    spec = f"jsonl:{_asked(tmp_path, 80)},prompt=q,answer=a"
    assert _split(model, f"{spec},format=plain").goals[0].spec.format == "plain"
    assert _split(model, spec).goals[0].spec.format == "zero-shot"
    with pytest.raises(UsageError, match=r"format=raw makes running text .* drop it, or pass"):
        _split(model, f"{spec},format=raw")
    for key in ("min_length=8", "pack=false"):
        with pytest.raises(UsageError, match=f"{key.split('=')[0]}= means nothing with format="):
            _split(model, f"{spec},{key}")


def test_what_is_left_out_is_said_though_the_last_row_is_a_repeat(
    model: dp.Model, tmp_path: Path
) -> None:
    file = _asked(tmp_path, 80)
    lines = file.read_text(encoding="utf-8").splitlines()
    lines += [json.dumps({"q": "How deep?", "a": ""}), lines[0]]
    file.write_text("\n".join(lines), encoding="utf-8")
    (note,) = _split(model, f"jsonl:{file},prompt=q,answer=a").goals[0].notes
    assert note.endswith("rows left out because they answer nothing: 1")


def test_tokens_that_the_embedding_lacks_are_refused_before_anything_is_spent(
    model: dp.Model, tmp_path: Path
) -> None:
    specs = target_specs([f"choices:{_choices(tmp_path, 80)}"])
    reader = SimpleNamespace(tokenizer=model.tokenizer, rows=9)
    with pytest.raises(CalibrationError, match="the model's embedding has 9 rows"):
        split_target(specs, reader, parse_split("50,25,25"), 0)


def test_what_is_left_out_of_a_target_is_said(model: dp.Model, tmp_path: Path) -> None:
    rows = [
        {
            "q": f"How high is river {i}?",
            "a": "It is high. " * (1 + 30 * (i % 2)) + "\ud83d" * (i < 9),
        }
        for i in range(120)
    ]
    file = tmp_path / "asked.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    (goal,) = _split(model, f"jsonl:{file},prompt=q,answer=a,length=96").goals
    halved, long = goal.notes
    assert "replaced by U+FFFD (and 8 more)" in halved
    assert long.startswith("60 of the 120 examples looked at are longer than length=")
    assert not _split(model, f"jsonl:{file},prompt=q,answer=a,length=400").goals[0].notes[1:]


def _asked(folder: Path, count: int, answer: str = "It is high.") -> Path:
    file = folder / "asked.jsonl"
    rows = ({"q": f"How high is river {i}?", "a": answer} for i in range(count))
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return file


def test_examples_that_are_all_too_long_need_longer_windows_and_not_more_of_them(
    model: dp.Model, tmp_path: Path
) -> None:
    spec = f"jsonl:{_asked(tmp_path, 64, 'It is high. ' * 40)},prompt=q,answer=a"
    with pytest.raises(CalibrationError, match=r"64 examples 64 are longer than .*raise length="):
        _split(model, f"{spec},length=96")
    assert _split(model, f"{spec},length=512").goals[0].documents == (32, 16, 16)


def test_repeats_are_told_where_too_little_is_left(model: dp.Model, tmp_path: Path) -> None:
    file = _asked(tmp_path, 20)
    file.write_text(file.read_text(encoding="utf-8") * 20, encoding="utf-8")
    with pytest.raises(CalibrationError, match=r"20 examples \(380 repeats of them are left out"):
        _split(model, f"jsonl:{file},prompt=q,answer=a")


def test_of_very_many_examples_only_those_that_are_needed_become_windows(
    model: dp.Model, tmp_path: Path
) -> None:
    spec = f"jsonl:{_asked(tmp_path, 20_000)},prompt=q,answer=a"
    specs, split = target_specs([spec]), parse_split("50,25,25")
    (goal,) = split_target(specs, model, split, 0, tokens=1024).goals
    goal.draw(0)
    calibrate, choose, judge = (source.pool for source in goal.sources)
    assert len(choose.fits) < 500  # type: ignore[attr-defined]
    assert len(calibrate.documents) < 9_000  # type: ignore[attr-defined]
    names = [{d.name for d in pool.documents} for pool in (calibrate, choose, judge)]  # type: ignore[attr-defined]
    assert len(set.union(*names)) == sum(map(len, names))
    assert goal.documents == (10_000, 5_000, 5_000)
    assert 4096 - 64 < goal.choose.tokens <= 4096


def test_every_token_counts_where_that_is_asked_for(model: dp.Model, tmp_path: Path) -> None:
    spec = f"jsonl:{_asked(tmp_path, 64)},prompt=q,answer=a,mask=all"
    (goal,) = _split(model, spec).goals
    assert all(w.scored.sum() == len(w.tokens) - 1 for w in goal.choose.windows)
