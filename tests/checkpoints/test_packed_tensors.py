"""Tensors that hold a part for every block lose those of the removed ones, byte by byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from depthprune.checkpoints import byte_copy
from depthprune.checkpoints.checkpoint import INDEX, open_checkpoint
from depthprune.checkpoints.config.cut import row_of
from depthprune.checkpoints.fingerprint import first_difference
from depthprune.checkpoints.packed_tensors import cut_packed
from depthprune.checkpoints.safetensors import Tensor
from depthprune.checkpoints.surgery import write_pruned
from depthprune.errors import ModelError

BLOCKS, PART, ROWS, WIDTH = 6, 4, 50, 8
KEPT = [1, 2, 3, 5]
EMBEDDING = "model.embed_tokens_per_layer.weight"
PROJECTION = "model.per_layer_model_projection.weight"


def make(folder: Path, **tensors: np.ndarray[Any, Any]) -> Path:
    folder.mkdir()
    blocks = {f"model.layers.{i}.w": np.full((2,), float(i), "float16") for i in range(BLOCKS)}
    save_file(blocks | tensors, folder / "model.safetensors")
    types = ["sliding_attention", "full_attention"] * 3
    config = {"model_type": "gemma4_text", "num_hidden_layers": BLOCKS, "layer_types": types}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def cut(folder: Path, out: Path) -> dict[str, Any]:
    out.mkdir()
    surgery = write_pruned(open_checkpoint(folder), (0, 4), out)
    new = load_file(out / "model.safetensors")
    assert surgery.parameters_after == sum(tensor.size for tensor in new.values())
    return new


def draw(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=shape).astype("float16")


@pytest.mark.parametrize("buffer", [1, 128, 4 << 20])
def test_the_kept_parts_are_what_indexing_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer: int
) -> None:
    monkeypatch.setattr(byte_copy, "_BUFFER", buffer)
    embedding, projection = draw(ROWS, BLOCKS * PART), draw(BLOCKS * PART, WIDTH)
    whole = make(tmp_path / "whole", **{EMBEDDING: embedding, PROJECTION: projection})
    new = cut(whole, tmp_path / "cut")
    by_block = embedding.reshape(ROWS, BLOCKS, PART)[:, KEPT].reshape(ROWS, -1)
    np.testing.assert_array_equal(new[EMBEDDING], by_block)
    rows = projection.reshape(BLOCKS, PART, WIDTH)[KEPT].reshape(-1, WIDTH)
    np.testing.assert_array_equal(new[PROJECTION], rows)


def test_a_cut_is_still_the_originals_until_a_part_changes(tmp_path: Path) -> None:
    embedding, projection = draw(ROWS, BLOCKS * PART), draw(BLOCKS * PART, WIDTH)
    whole = make(tmp_path / "whole", **{EMBEDDING: embedding, PROJECTION: projection})
    new = cut(whole, tmp_path / "cut")

    def difference() -> str | None:
        opened = open_checkpoint(tmp_path / "cut"), open_checkpoint(whole)
        return first_difference(*opened, (0, 4), "model.layers.")

    assert difference() is None
    new[EMBEDDING][-1, -1] += 1
    save_file(new, tmp_path / "cut" / "model.safetensors")
    assert difference() == EMBEDDING


def test_other_tensors_are_left_as_they_are(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", **{"model.embed_tokens.weight": draw(ROWS, WIDTH)})
    new = cut(whole, tmp_path / "cut")
    np.testing.assert_array_equal(new["model.embed_tokens.weight"], draw(ROWS, WIDTH))


def test_a_file_of_packed_tensors_alone_is_cut_and_not_linked(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole")
    names = dict.fromkeys(open_checkpoint(whole).tensors, "blocks.safetensors")
    (whole / "model.safetensors").rename(whole / "blocks.safetensors")
    save_file({EMBEDDING: draw(ROWS, BLOCKS * PART)}, whole / "packed.safetensors")
    weight_map = names | {EMBEDDING: "packed.safetensors"}
    (whole / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "cut").mkdir()
    write_pruned(open_checkpoint(whole), (0, 4), tmp_path / "cut", link=True)
    found = open_checkpoint(tmp_path / "cut").tensors[EMBEDDING]
    assert found.shape == (ROWS, len(KEPT) * PART)


def test_parts_that_do_not_fit_the_blocks_are_refused(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", **{EMBEDDING: draw(ROWS, BLOCKS * PART + 1)})
    with pytest.raises(ModelError, match="expected a part for each of 6 blocks along axis 1"):
        cut(whole, tmp_path / "cut")
    flat = make(tmp_path / "flat", **{EMBEDDING: draw(BLOCKS * PART)})
    with pytest.raises(ModelError, match=r"along axis 1, found the shape \(24,\)"):
        cut(flat, tmp_path / "of flat")


def test_parts_that_are_no_whole_bytes_are_refused() -> None:
    tensor = Tensor(EMBEDDING, "F4", (2, BLOCKS), 0, BLOCKS)
    with pytest.raises(ModelError, match="its parts are no whole bytes"):
        cut_packed(Path("a"), tensor, KEPT, BLOCKS, row_of({"model_type": "gemma4_text"}))


def test_a_form_that_cannot_be_taken_apart_is_refused(tmp_path: Path) -> None:
    name = EMBEDDING.replace("weight", "weight_packed")
    whole = make(tmp_path / "whole", **{name: np.zeros((ROWS, 12), "int32")})
    with pytest.raises(ModelError, match="cut the model before it is quantised"):
        cut(whole, tmp_path / "cut")
