"""`apply` and `prune` from a GGUF into a GGUF."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import Command
from depthprune.checkpoints.gguf.reader import read_gguf
from gguf_tiny import tiny_gguf

DONE = 0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama of six blocks with a tokenizer; leave it as it is."""
    return tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tokenizer=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.usefixtures("no_weights")
def test_apply_puts_a_page_and_a_manifest_beside_the_file(
    depthprune: Command, tiny: Path, tmp_path: Path
) -> None:
    out = tmp_path / "small.Q8.gguf"
    outcome = depthprune("apply", tiny, "--remove", "1,3-4", "-o", out)
    assert outcome.status == DONE, outcome.err
    assert "small.Q8.report.html" in outcome.out
    assert names(tmp_path) == ["small.Q8.depthprune.json", "small.Q8.gguf", "small.Q8.report.html"]
    manifest = json.loads((tmp_path / "small.Q8.depthprune.json").read_text())
    assert manifest["files"] == ["small.Q8.gguf", "small.Q8.report.html"]
    page = (tmp_path / "small.Q8.report.html").read_text()
    assert "GGUF files" in page
    assert "safetensors files" not in page
    assert read_gguf(out).blocks == 3


def test_prune_searches_and_writes_a_gguf(
    depthprune: Command, tiny: Path, spec: str, tmp_path: Path
) -> None:
    out = tmp_path / "small.gguf"
    words = ("prune", tiny, "-k", "2", "-c", spec, "-o", out, "--no-bench", "--dtype", "float32")
    manifest = depthprune(*words, "--json").document
    assert names(tmp_path) == ["small.depthprune.json", "small.gguf", "small.report.html"]
    assert json.loads((tmp_path / "small.depthprune.json").read_text()) == manifest
    assert manifest["parity"]["bitwise"]
    assert manifest["dtype"] == "Q8_0"
    assert manifest["held_out"]
    assert manifest["size"]["bytes_before"] == tiny.stat().st_size
    assert manifest["size"]["bytes_after"] == out.stat().st_size
    # The same set, cut without any search, is the same file.
    removed = ",".join(map(str, manifest["removed"]))
    depthprune("apply", tiny, "--remove", removed, "-o", tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == out.read_bytes()
    assert depthprune(*words, "--overwrite").status == DONE


def test_evaluating_the_file_gives_the_loss_of_the_masked_model(
    depthprune: Command, tiny: Path, spec: str, tmp_path: Path
) -> None:
    depthprune("apply", tiny, "--remove", "1,3", "-o", tmp_path / "b.gguf")
    words = ("-c", spec, "--dtype", "float32", "--json")
    masked = depthprune("evaluate", tiny, "--remove", "1,3", *words).document["results"][0]
    written = depthprune("evaluate", tmp_path / "b.gguf", *words).document["results"][0]
    assert written["loss"] == pytest.approx(masked["loss"], rel=1e-6)


@pytest.mark.usefixtures("no_weights")
def test_prune_refuses_before_a_search_what_llama_cpp_would_misread(
    depthprune: Command, spec: str, tmp_path: Path
) -> None:
    model = tiny_gguf(tmp_path / "a.gguf", "smollm3", 8)
    out = tmp_path / "b.gguf"
    outcome = depthprune("prune", model, "-k", "4", "-c", spec, "-o", out)
    assert "in smollm3 every 4th block has no rotary positions" in outcome.error
    assert names(tmp_path) == ["a.gguf"]


@pytest.mark.parametrize(
    ("fields", "data", "message"),
    [
        ({"split.count": 2, "split.no": 0}, b"", "part 1 of 2"),
        ({}, b"GGUF\0\0\0\x03", "a big-endian GGUF"),
        ({}, b"GGUF\x09\0\0\0", "GGUF version 9, newer"),
        ({}, None, "truncated: output.weight ends at byte"),
    ],
)
@pytest.mark.usefixtures("no_weights")
def test_a_file_that_cannot_be_cut_is_refused_in_one_line(
    depthprune: Command,
    tmp_path: Path,
    fields: dict[str, int],
    data: bytes | None,
    message: str,
) -> None:
    model = tiny_gguf(tmp_path / "a.gguf", fields=fields)
    raw = model.read_bytes()
    model.write_bytes(raw[:-32] if data is None else data + raw[len(data) :])
    outcome = depthprune("apply", model, "--remove", "1", "-o", tmp_path / "b.gguf")
    assert message in outcome.error
    assert names(tmp_path) == ["a.gguf"]
