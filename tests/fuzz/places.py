"""Links and odd files in a model's folder, and odd places for the output."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from depthprune.checkpoints.checkpoint import open_checkpoint
from depthprune.claims import forget_claims
from depthprune.pruning.apply import apply

SECRET = b"what lies outside of the folder"


def tree(folder: Path) -> dict[str, object]:
    """What stands under a folder: the bytes of its files, the ends of its links, its folders."""
    found: dict[str, object] = {}
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            name = str(path.relative_to(folder))
            if path.is_symlink():
                found[name] = os.readlink(path)
            else:
                found[name] = path.read_bytes() if path.is_file() else None
    return found


def _odd_files(folder: Path) -> dict[str, Callable[[Path], object]]:
    """What may stand where a file is expected, each by how it is made."""
    model, outside = folder / "model", folder / "outside"
    ends = {
        "outside": outside / "secret",
        "outside by dots": Path("..", "outside", "secret"),
        "a folder outside": outside,
        "inside": Path("kept"),
        "its folder": model,
        "nothing": Path("missing"),
        "endless": Path("/dev/zero"),
        "null": Path("/dev/null"),
        "a process": Path("/proc/self/environ"),
    }
    made: dict[str, Callable[[Path], object]] = {
        name: lambda path, end=end: path.symlink_to(end) for name, end in ends.items()
    }
    made["itself"] = lambda path: path.symlink_to(path.name)
    made["a pipe"] = os.mkfifo
    made["a folder"] = Path.mkdir
    made["a second name"] = lambda path: os.link(outside / "secret", path)
    return made


def make_links(folder: Path, good: Callable[[Path], None]) -> None:
    """A checkpoint with files beside it, to be copied for each attempt."""
    (folder / "good").mkdir()
    good(folder / "good")
    for name in ("kept", "vocab.txt", "README.md"):
        (folder / "good" / name).write_text(name, encoding="utf-8")
    (folder / "outside").mkdir()
    (folder / "outside" / "secret").write_bytes(SECRET)


def attempt_links(folder: Path, rng: random.Random) -> None:
    """Some files are replaced; nothing from outside may come into the cut."""
    model, out = folder / "model", folder / "out"
    for path in (model, out):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(folder / "good", model)
    odd = _odd_files(folder)
    second = False
    for path in rng.sample(sorted(model.iterdir()), rng.choice((1, 1, 2))):
        if path.name == "kept":
            continue
        kind = rng.choice(sorted(odd))
        second = second or kind == "a second name"
        path.unlink()
        odd[kind](path)
    forget_claims()
    try:
        apply(model, (1,), out)
    except BaseException:
        assert not out.exists()
        raise
    again = open_checkpoint(out)
    assert again.blocks == 3
    for name, content in tree(out).items():
        assert isinstance(content, bytes), name
        # A second name of a file is that file: nothing tells which of them was first.
        assert second or SECRET not in content, name


def make_outputs(folder: Path, good: Callable[[Path], None]) -> None:
    """A checkpoint to cut."""
    (folder / "model").mkdir()
    good(folder / "model")


def _written(place: Path) -> None:
    apply(place.parent.parent / "model", (2,), place)


def _in_the_way(rng: random.Random, place: Path) -> Path:
    """Put something where the output goes; where it goes then."""
    mine = place / "mine.txt"
    ways: list[Callable[[], object]] = [
        lambda: None,
        place.mkdir,
        lambda: place.write_bytes(SECRET),
        lambda: (place.mkdir(), mine.write_bytes(SECRET)),
        lambda: _written(place),
        lambda: (_written(place), mine.write_bytes(SECRET)),
        lambda: (_written(place), (place / "config.json").unlink()),
        lambda: (_written(place), (place / "depthprune.json").write_text("{}")),
        lambda: (place.parent / "end").mkdir() or place.symlink_to("end"),
        lambda: place.symlink_to("nothing"),
        lambda: place.symlink_to(place.name),
        lambda: os.mkfifo(place),
    ]
    rng.choice(ways)()
    forget_claims()
    places = [
        *([place] * 8),
        place / "below",
        place / "far" / "below",
        place.parent.parent / "model",
        place.parent.parent / "model" / "out",
        place.parent / ".." / place.parent.name / place.name,
        place.with_name("x" * 300),
        place.with_name(os.fsdecode(b"\xff\xfe")),
        place.with_name("out\n\x1b[2J"),
        place.with_name("out.gguf"),
        place.with_name("-o"),
        Path("/dev/null"),
        Path("/proc/out"),
    ]
    return rng.choice(places)


def attempt_outputs(folder: Path, rng: random.Random) -> None:
    """Whatever stood before stands after, but for what an earlier run had written into OUT."""
    around = folder / "around"
    shutil.rmtree(around, ignore_errors=True)
    around.mkdir()
    out = _in_the_way(rng, around / "out")
    before = tree(folder)
    overwrite = rng.random() < 0.5
    try:
        apply(folder / "model", (1,), out, overwrite=overwrite)
    except BaseException:
        assert tree(folder) == before
        raise
    finally:
        forget_claims()
    after = tree(folder)
    inside = str(out.resolve().relative_to(folder.resolve()))
    others = {name for name in before if name != inside and not name.startswith(f"{inside}/")}
    assert {name: after.get(name) for name in others} == {name: before[name] for name in others}
    assert all(after.get(name) == content for name, content in before.items() if content == SECRET)
    assert not [name for name in after if Path(name).name.startswith(".")]
    assert open_checkpoint(out).blocks == 3
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder / "model" / "out")
