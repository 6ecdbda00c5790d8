"""Text that the model itself writes: seeded, filtered by perplexity, cached, held out from."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

import depthprune as dp
from depthprune.calibration import Calibration
from depthprune.errors import CalibrationError, OutputError, UsageError
from tiny import save_tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> dp.Model:
    return dp.load(tiny_llama, dtype="float32", device="cpu")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "a.txt"
    file.write_text("The river rises in the hills behind the town. " * 9, encoding="utf-8")
    return file


def _drawn(model: dp.Model, keys: str = "windows=4,length=20") -> Calibration:
    return dp.calibrate(f"self,{keys}", model)


def _cached() -> list[Path]:
    return sorted((Path(os.environ["XDG_CACHE_HOME"]) / "depthprune" / "self").glob("*"))


def _no_writing(monkeypatch: pytest.MonkeyPatch, model: dp.Model) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        pytest.fail("text was written")

    monkeypatch.setattr(model.module, "generate", refuse, raising=False)


def test_every_window_has_its_full_length_and_begins_with_bos(model: dp.Model) -> None:
    drawn = _drawn(model)
    assert [len(w.tokens) for w in drawn.windows] == [20] * 4
    assert {int(w.tokens[0]) for w in drawn.windows} == {model.tokenizer.bos_token_id}
    assert all(w.scored.tolist() == [False] + [True] * 19 for w in drawn.windows)


def test_a_budget_counts_windows(model: dp.Model) -> None:
    assert len(_drawn(model, "tokens=90,length=20").windows) == 4


def test_a_prompt_begins_every_text(model: dp.Model) -> None:
    drawn = _drawn(model, "windows=3,length=24,prompt=The river\\, once")
    begin = tiny_tokenizer().encode("The river, once", add_special_tokens=False)
    for window in drawn.windows:
        assert window.tokens[: len(begin)].tolist() == begin


def test_prefixes_are_cut_from_the_text(model: dp.Model, text: Path) -> None:
    spec = f"self:{text},prefix=5,windows=4,length=20,mask=answer"
    drawn = dp.calibrate(spec, model)
    whole = tiny_tokenizer().encode(text.read_text(encoding="utf-8"), add_special_tokens=False)
    pieces = {tuple(whole[i : i + 5]) for i in range(len(whole) - 4)}
    assert {tuple(w.tokens[:5].tolist()) for w in drawn.windows} <= pieces
    assert all(w.scored.tolist() == [False] * 5 + [True] * 15 for w in drawn.windows)


def test_the_same_seed_writes_the_same_text_and_another_other(
    model: dp.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = torch.random.get_rng_state()
    first, other = _drawn(model), _drawn(model, "windows=4,length=20,seed=1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _drawn(model).fingerprint == first.fingerprint
    assert other.fingerprint != first.fingerprint
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_checkpoint_s_own_settings_of_generation_do_not_count(
    model: dp.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = _drawn(model)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own = GenerationConfig(repetition_penalty=9.0, top_k=1, eos_token_id=list(range(200)))
    monkeypatch.setattr(model.module, "generation_config", own)
    assert _drawn(model).fingerprint == first.fingerprint
    assert model.module.generation_config is own


@pytest.mark.parametrize("model_type", ["gpt2", "qwen2", "gemma2"])
def test_other_architectures_write_too(model_type: str, tmp_path: Path) -> None:
    other = dp.load(save_tiny(tmp_path / "m", model_type), dtype="float32", device="cpu")
    assert [len(w.tokens) for w in _drawn(other, "windows=2,length=12").windows] == [12, 12]


def test_a_further_draw_is_written_anew(model: dp.Model) -> None:
    again = _drawn(model).redraw(1)
    assert again.fingerprint == _drawn(model, "windows=4,length=20,seed=1").fingerprint


def test_what_was_written_is_kept(model: dp.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _drawn(model)
    assert len(_cached()) == 1
    with monkeypatch.context() as patch:
        _no_writing(patch, model)
        assert _drawn(model).fingerprint == first.fingerprint
        assert first.held_out()[0].tokens == 40


@pytest.mark.parametrize(
    "keys", ["seed=1", "temperature=0.5", "top_p=0.5", "prompt=a", "filter=0.5", "length=21"]
)
def test_the_cache_is_keyed_by_all_that_the_text_depends_on(keys: str, model: dp.Model) -> None:
    _drawn(model)
    changed = dict([("windows", "4"), ("length", "20"), keys.split("=")])
    _drawn(model, ",".join(f"{key}={value}" for key, value in changed.items()))
    assert len(_cached()) == 2


def test_weights_without_a_fingerprint_are_not_cached(model: dp.Model) -> None:
    _drawn(replace(model, fingerprint=None))
    assert _cached() == []


@pytest.mark.parametrize("content", ["", "{}", '{"texts": [[1, 2]], "begun": 1, "losses": [1]}'])
def test_a_damaged_cache_is_refused_with_its_file(content: str, model: dp.Model) -> None:
    _drawn(model)
    (file,) = _cached()
    file.write_text(content, encoding="utf-8")
    with pytest.raises(CalibrationError, match=rf"{file.name}: .* is damaged .*; delete the file"):
        _drawn(model)


def test_a_cache_folder_that_cannot_be_made_is_refused(
    model: dp.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "depthprune").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(OutputError, match="set XDG_CACHE_HOME to a folder"):
        _drawn(model)


def test_the_texts_of_highest_perplexity_are_left_out(model: dp.Model) -> None:
    kept = {w.tokens.tobytes() for w in _drawn(model, "windows=4,length=20,filter=0.4").windows}
    (file,) = _cached()
    texts = [np.asarray(text) for text in json.loads(file.read_text())["texts"]]
    assert len(texts) == 10
    losses = []
    for ids in texts:
        batch = torch.from_numpy(ids).unsqueeze(0)
        with torch.inference_mode():
            out = model.module(input_ids=batch, labels=batch)
        losses.append(float(out.loss))
    best = sorted(range(10), key=losses.__getitem__)[:6]
    inside = {texts[i].astype(np.int64).tobytes() for i in best}
    assert kept < inside


def test_held_out_texts_are_in_no_draw(model: dp.Model) -> None:
    drawn = _drawn(model)
    (held,) = drawn.held_out()
    assert len(held.windows) == 2
    texts = {w.tokens.tobytes() for w in drawn.windows}
    assert texts.isdisjoint({w.tokens.tobytes() for w in held.windows})


def test_a_tokenizer_alone_writes_no_text() -> None:
    with pytest.raises(UsageError, match="the text is the model's own; pass a loaded model"):
        dp.calibrate("self", SimpleNamespace(tokenizer=tiny_tokenizer()))


def test_what_needs_no_model_is_refused_before_one_is_loaded(tmp_path: Path) -> None:
    reader = SimpleNamespace(
        tokenizer=tiny_tokenizer(), loaded=lambda: pytest.fail("a model was loaded")
    )
    with pytest.raises(CalibrationError, match="no such file"):
        dp.calibrate(["self", f"text:{tmp_path / 'none.txt'}"], reader)


def test_a_mixture_keeps_the_order_of_its_specs(model: dp.Model, text: Path) -> None:
    drawn = dp.calibrate(["self,windows=2,length=8", f"text:{text},windows=2,length=8"], model)
    assert [part.spec.source for part in drawn.parts] == ["self", "text"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("self,prompt=The river rises,length=4", "its beginning has .* leaves none to write"),
        ("self:{text},prefix=9999", "prefix=9999 and the text has"),
        ("self:none.txt,prefix=2", "none.txt: no such file"),
    ],
)
def test_what_leaves_nothing_to_write_is_refused(
    spec: str, message: str, model: dp.Model, text: Path
) -> None:
    with pytest.raises(CalibrationError, match=message):
        dp.calibrate(spec.format(text=text), model)
