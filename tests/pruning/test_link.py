"""`prune --link`: what does not change is the original's own files, and nothing else is."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import depthprune as dp
from command import run
from depthprune.checkpoints import shard_files
from gguf_tiny import tiny_gguf
from tiny import save_text, save_tiny


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model", max_shard_size="200KB")


@pytest.fixture
def no_reflinks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, "no reflinks here")

    monkeypatch.setattr(shard_files, "_reflink", refuse)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return save_text(tmp_path / "river.txt")


def _weights(folder: Path) -> dict[str, bytes]:
    files = folder.glob("*.safetensors")
    return {name: data.tobytes() for path in files for name, data in load_file(path).items()}


@pytest.mark.usefixtures("no_reflinks")
@pytest.mark.parametrize(("recover", "block"), [(None, 5), ("magnitude", 4)])
def test_a_pruned_model_shares_the_files_in_which_nothing_changes(
    sharded: Path, text: Path, tmp_path: Path, recover: str | None, block: int
) -> None:
    before = _weights(sharded)
    stay = ",".join(str(other) for other in range(6) if other != block)
    for name, link in (("linked", True), ("copied", False)):
        manifest = dp.prune(
            sharded, 1, out=tmp_path / name, calibration=f"text:{text},windows=4,length=24",
            dtype="float32", device="cpu", protect=stay, bench=False, memo="off", link=link,
            recover=recover,
        )  # fmt: skip
        assert manifest.removed == [block]
        assert manifest.parity is not None
    assert _weights(tmp_path / "linked") == _weights(tmp_path / "copied")
    assert _weights(sharded) == before
    originals = {path.stat().st_ino for path in sharded.glob("*.safetensors")}
    written = {p.name: p.stat().st_ino for p in (tmp_path / "linked").glob("*.safetensors")}
    shared = [name for name, inode in written.items() if inode in originals]
    # Magnitude changes all that is below the gap, some of it in each file.
    assert (0 < len(shared) < len(written)) if recover is None else not shared


def test_a_gguf_has_no_files_to_share(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = tiny_gguf(tmp_path / "model.gguf")
    for out in (tmp_path / "out", tmp_path / "out.gguf"):
        found = run(capsys, "prune", model, "-k", 1, "-o", out, "--link")
        assert found.status == 2
        assert found.error.startswith("--link: shares the safetensors of a folder with another")
        assert not out.exists()
