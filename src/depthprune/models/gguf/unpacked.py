"""GGUF files that were unpacked before, kept in the user's cache folder as plain checkpoints.

Unpacking takes seconds, mapping what was unpacked into memory none. A kept model is named by what
it was made of: the file's fingerprint and time of change, the dtype, and the versions of the
packages that unpacked it; so a file that is not quite the same is unpacked anew. It is written
beside its place and renamed, holds no pickle, and is only ever a shortcut: where it cannot be
written it is not, and where it cannot be read it is unpacked again. What was used longest ago
goes when the folder would outgrow its limit.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthprune.errors import DepthpruneError, OutputError, UsageError
from depthprune.outputs import cache_folder, disk_errors
from depthprune.untrusted import read_untrusted

if TYPE_CHECKING:
    from torch import nn

LIMIT_VARIABLE = "DEPTHPRUNE_UNPACKED"
"""Environment variable: gigabytes that kept models may take together; 0 keeps none."""

_LIMIT_GB = 4.0
_RECORD = "unpacked.json"
_PARTIAL = ".partial-"
_PARTIAL_SECONDS = 3600.0
_SPARE = 4
"""A model is kept where the disk has so many times its size free."""


@dataclass(frozen=True)
class UnpackedModel:
    """One kept model.

    Attributes:
        place: Its folder.
        name: The GGUF file's name.
        fingerprint: Of the GGUF file.
        dtype: What it was unpacked to.
        bytes: What it takes on disk.
        used: When it was last loaded, in seconds since 1970.
    """

    place: Path
    name: str
    fingerprint: str
    dtype: str
    bytes: int
    used: float


def unpacked_folder() -> Path:
    """Where kept models are; it may not exist yet.

    Raises:
        OutputError: If this user has no home folder.
    """
    return cache_folder() / "unpacked"


def limit_bytes() -> int:
    """What kept models may take together.

    Raises:
        UsageError: If the environment variable is no number of gigabytes.
    """
    stated = os.environ.get(LIMIT_VARIABLE, "").strip()
    try:
        limit = float(stated) if stated else _LIMIT_GB
        return int(limit * 1e9) if limit >= 0 else int("")
    except (ValueError, OverflowError):
        raise UsageError(
            f"{LIMIT_VARIABLE}: expected gigabytes, such as 4, or 0 to keep no unpacked GGUF file; "
            f"got {stated!r}"
        ) from None


def find_kept(file: Path, fingerprint: str, dtype: str) -> Path | None:
    """The folder of a file that was unpacked before; None where there is none.

    Args:
        file: A GGUF file.
        fingerprint: Its fingerprint.
        dtype: What it is to be loaded as.
    """
    if not limit_bytes():
        return None
    try:
        place = unpacked_folder() / _key(file, fingerprint, dtype)
        os.utime(place / _RECORD)
    except (OSError, OutputError):
        return None
    return place


def keep(file: Path, fingerprint: str, dtype: str, module: nn.Module) -> None:
    """Keep an unpacked model, if there is room for it.

    Args:
        file: The GGUF file.
        fingerprint: Its fingerprint.
        dtype: What it was unpacked to.
        module: The loaded model.
    """
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    limit = limit_bytes()
    if size > limit:
        return
    with suppress(OSError, OutputError), disk_errors(file):
        folder = unpacked_folder()
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        forget_oldest(limit - size)
        if shutil.disk_usage(folder).free < _SPARE * size:
            return
        stage = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder))
        try:
            saved: Any = module
            # In one file: a kept model is small, and is read as a whole.
            saved.save_pretrained(stage, max_shard_size=limit + size)
            record = {"name": file.name, "fingerprint": fingerprint, "dtype": dtype}
            (stage / _RECORD).write_text(json.dumps(record), encoding="utf-8")
            os.rename(stage, folder / _key(file, fingerprint, dtype))
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def kept_models() -> tuple[UnpackedModel, ...]:
    """What is kept, what was used last first."""
    try:
        found = list(_entries(unpacked_folder()))
    except OutputError:
        return ()
    return tuple(sorted(found, key=lambda kept: -kept.used))


def forget_kept(
    *,
    older_than_days: float | None = None,
    weights: str | None = None,
    everything: bool = False,
) -> tuple[UnpackedModel, ...]:
    """Delete kept models; all conditions that are given must hold.

    Args:
        older_than_days: Those that were not loaded for so long.
        weights: Those whose fingerprint begins so.
        everything: All of them.

    Returns:
        What was deleted.
    """
    gone = []
    for kept in kept_models():
        old = older_than_days is None or kept.used < time.time() - older_than_days * 86_400
        named = weights is None or kept.fingerprint.startswith(weights)
        if everything or (old and named and (older_than_days, weights) != (None, None)):
            forget(kept.place)
            gone.append(kept)
    return tuple(gone)


def forget(place: Path) -> None:
    """Delete one kept model, at once for whoever looks for it."""
    with suppress(OSError):
        hidden = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=place.parent))
        with suppress(OSError):
            os.rename(place, hidden / place.name)
        shutil.rmtree(hidden, ignore_errors=True)


def forget_oldest(limit: int) -> None:
    """Delete what was used longest ago, until the rest takes no more than `limit` bytes."""
    held = 0
    for kept in kept_models():
        held += kept.bytes
        if held > limit:
            forget(kept.place)


def _entries(folder: Path) -> Iterator[UnpackedModel]:
    if not folder.is_dir():
        return
    for place in folder.iterdir():
        with suppress(OSError, ValueError, KeyError, TypeError, DepthpruneError):
            record = place / _RECORD
            if place.name.startswith(_PARTIAL) or not record.is_file():
                continue
            stated = read_untrusted(record)
            name, fingerprint, dtype = (str(stated[k]) for k in ("name", "fingerprint", "dtype"))
            size = sum(file.stat().st_size for file in place.iterdir())
            yield UnpackedModel(place, name, fingerprint, dtype, size, record.stat().st_mtime)


def _sweep(folder: Path) -> None:
    """Delete what killed processes left unfinished."""
    for place in folder.glob(f"{_PARTIAL}*"):
        with suppress(OSError):
            if place.stat().st_mtime < time.time() - _PARTIAL_SECONDS:
                shutil.rmtree(place, ignore_errors=True)


def _key(file: Path, fingerprint: str, dtype: str) -> str:
    from importlib.metadata import version

    made_by = [f"{package} {version(package)}" for package in ("torch", "transformers", "gguf")]
    changed = file.stat().st_mtime_ns
    parts = json.dumps(["unpacked-3", fingerprint, changed, dtype, *made_by])
    return hashlib.sha256(parts.encode()).hexdigest()[:32]
