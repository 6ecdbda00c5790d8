"""Everything in a checkpoint's folder comes along but what is known to be of no use."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from depthprune.checkpoints.checkpoint import open_checkpoint
from depthprune.checkpoints.surgery import Surgery, write_pruned
from depthprune.errors import CheckpointError
from depthprune.pruning.apply import apply


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 3}')
    names = [f"model.layers.{block}.w" for block in range(3)]
    save_file({name: np.ones(2, np.float32) for name in names}, folder / "model.safetensors")
    return folder


def cut(folder: Path, out: Path) -> Surgery:
    out.mkdir()
    return write_pruned(open_checkpoint(folder), (1,), out)


@pytest.mark.parametrize(
    "names",
    [
        "tekken.json",
        "sentencepiece.bpe.model tokenizer.model.v3",
        "chat_template.jinja chat_template.json tool_chat_template.jinja",
        "qwen.tiktoken bpe.codes dict.txt source.spm target.spm",
        "preprocessor_config.json video_processor.json some_new_processor.json",
        "sentencepiece/spm.model sentencepiece/deep/er/x.vocab",
        "assets/voices/a.json SYSTEM_PROMPT.txt recipe.yaml modules.json 1_Pooling/config.json",
    ],
)
def test_files_that_nobody_knows_come_along_byte_for_byte(
    source: Path, tmp_path: Path, names: str
) -> None:
    for name in names.split():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b'{"not": "touched" }\r\n' + name.encode())
    done = cut(source, tmp_path / "b")
    assert {name.split("/")[0] for name in names.split()} <= set(done.files)
    for name in names.split():
        assert (tmp_path / "b" / name).read_bytes() == (source / name).read_bytes()
    assert not done.warnings


def test_what_stays_behind_is_said_in_a_line(source: Path, tmp_path: Path) -> None:
    left = "optimizer.pt onnx/model.onnx original/tokenizer.model params.json code.py sub/w.bin"
    for name in left.split():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).touch()
    (source / "sub" / "vocab.txt").touch()
    (source / ".git").mkdir()
    done = cut(source, tmp_path / "b")
    assert done.warnings == (
        "left behind, of the uncut model or of no use to load it: code.py, onnx, optimizer.pt, "
        "original, params.json, sub/w.bin",
    )
    assert [path.name for path in (tmp_path / "b" / "sub").iterdir()] == ["vocab.txt"]


def test_layers_after_an_embedding_model_keep_their_weights(source: Path, tmp_path: Path) -> None:
    steps = [{"idx": 0, "path": ""}, {"idx": 1, "path": "2_Dense", "type": "x.Dense"}]
    (source / "modules.json").write_text(json.dumps(steps))
    for name in ("2_Dense/model.safetensors", "2_Dense/config.json", "other/model.safetensors"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"{}")
    done = cut(source, tmp_path / "b")
    assert (tmp_path / "b" / "2_Dense" / "model.safetensors").read_bytes() == b"{}"
    assert done.warnings[0].endswith(": other/model.safetensors")


@pytest.mark.parametrize("steps", ["[1, null]", "{}", "[", '[{"path": 3}]'])
def test_a_list_of_steps_that_is_none_is_copied_as_it_is(
    source: Path, tmp_path: Path, steps: str
) -> None:
    (source / "modules.json").write_text(steps)
    assert not cut(source, tmp_path / "b").warnings
    assert (tmp_path / "b" / "modules.json").read_text() == steps


def test_an_adapters_config_stays_behind_with_its_weights(source: Path, tmp_path: Path) -> None:
    (source / "adapter_config.json").write_text("{}")
    (source / "adapter_model.safetensors").touch()
    done = cut(source, tmp_path / "b")
    assert done.warnings[0].endswith(": adapter_config.json, adapter_model.safetensors")


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin.index.json",
        "consolidated.safetensors.index.json",
        "model.safetensors.index.fp32.json",
        "trainer_state.json",
    ],
)
def test_what_names_blocks_of_weights_that_stay_behind_stays_too(
    source: Path, tmp_path: Path, name: str
) -> None:
    (source / name).write_text(json.dumps({"weight_map": {"model.layers.2.w": "x-1.bin"}}))
    assert cut(source, tmp_path / "b").warnings[0].endswith(f": {name}")
    assert not (tmp_path / "b" / name).exists()


@pytest.mark.parametrize("text", ['["the layers"]', '{"layers": 1}\n{"layers": 2}\n', "layers"])
def test_json_that_is_no_quantisers_is_copied_whatever_it_is(
    source: Path, tmp_path: Path, text: str
) -> None:
    (source / "notes.json").write_text(text)
    assert "notes.json" in cut(source, tmp_path / "b").files
    assert (tmp_path / "b" / "notes.json").read_text() == text


def test_an_earlier_cut_within_the_folder_is_no_part_of_the_next(source: Path) -> None:
    for out in ("x", "y", "deep/z"):
        apply(source, (1,), source / out)
    apply(source, (1,), source / "x", overwrite=True)
    for out in ("x", "y", "deep/z"):
        names = {path.name for path in (source / out).iterdir()}
        assert names == {"config.json", "model.safetensors", "depthprune.json"}


@pytest.mark.parametrize("asks", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_code_comes_along_where_any_config_asks_for_it(
    source: Path, tmp_path: Path, asks: str
) -> None:
    config = json.loads((source / "config.json").read_text()) if asks == "config.json" else {}
    (source / asks).write_text(json.dumps(config | {"auto_map": {"AutoTokenizer": "t.T"}}))
    (source / "t.py").write_text("class T: ...")
    (source / "parts").mkdir()
    (source / "parts" / "more.py").touch()
    done = cut(source, tmp_path / "b")
    assert {"t.py", "parts"} <= set(done.files)
    assert (tmp_path / "b" / "parts" / "more.py").exists()


@pytest.mark.parametrize("place", ["../secret.txt", "../secrets", "/dev/zero", "vocab_x.txt"])
def test_what_leads_out_of_the_folder_is_not_copied(
    source: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "secret.txt").write_text("mine")
    (tmp_path / "secrets").mkdir()
    (source / "vocab_x.txt").symlink_to(place)
    with pytest.raises(CheckpointError, match=r"vocab_x\.txt: "):
        cut(source, tmp_path / "b")
    assert not list((tmp_path / "b").iterdir())


def test_a_link_in_a_folder_within_the_folder_is_looked_at_too(
    source: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret.txt").write_text("mine")
    (source / "sub").mkdir()
    (source / "sub" / "vocab.txt").symlink_to("../../secret.txt")
    with pytest.raises(CheckpointError, match="leads out of the folder"):
        cut(source, tmp_path / "b")


@pytest.mark.parametrize("name", [b"caf\xe9.txt", b"a/caf\xe9.txt"])
def test_a_name_that_no_manifest_can_record_is_refused(
    source: Path, tmp_path: Path, name: bytes
) -> None:
    file = source / os.fsdecode(name)
    file.parent.mkdir(exist_ok=True)
    file.touch()
    with pytest.raises(CheckpointError, match=r"caf.udce9\.txt': its name is not UTF-8; rename it"):
        apply(source, (1,), tmp_path / "b")


def test_a_model_whose_own_name_is_not_text_is_refused(source: Path, tmp_path: Path) -> None:
    odd = source.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    with pytest.raises(CheckpointError, match="its name is not UTF-8; rename it"):
        apply(odd, (1,), tmp_path / "b")


def test_a_pipe_beside_the_weights_is_refused_and_never_waited_for(
    source: Path, tmp_path: Path
) -> None:
    os.mkfifo(source / "tokenizer.json")
    with pytest.raises(CheckpointError, match="expected a file, found a pipe"):
        cut(source, tmp_path / "b")
