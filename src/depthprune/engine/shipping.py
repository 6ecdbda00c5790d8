"""A model on every worker: from a place that all see, or shipped once where it is small.

A folder or file is looked for under its own path on the worker's machine. Where it is not, and the
model is small, its bytes come through the cluster's object store, once for each machine: they stay
there under a name that their contents give, for the next run with the same model.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from depthprune.engine.cluster import Cluster
from depthprune.errors import ModelError
from depthprune.models.loading import Model, load

_MOST_SHIPPED = 2 << 30


@dataclass(frozen=True)
class ModelOnWorker:
    """Loads a model in a worker; it travels, so it holds names and no weights.

    Attributes:
        name: A hub id, or a path.
        is_path: Whether it is a path.
        settings: How it is loaded.
        files: Stands for its files in the object store; None where they were not put there.
        digest: Of those files.
    """

    name: str
    is_path: bool
    settings: dict[str, Any]
    files: Any = None
    digest: str = ""

    def __call__(self) -> Model:
        """The loaded model.

        Raises:
            ModelError: If it is not on this machine and was not shipped.
        """
        return load(self._found(), **self.settings)

    def _found(self) -> str:
        if not self.is_path or os.path.exists(self.name):
            return self.name
        if self.files is None:
            raise ModelError(
                f"{self.name}: is not on a worker's machine, and larger than the "
                f"{_MOST_SHIPPED >> 30} GiB that are shipped; put it where every machine sees it, "
                "or give a hub id"
            )
        return _written(self.name, self.files, self.digest)


def on_worker(cluster: Cluster, model: Model, name: str, **settings: Any) -> ModelOnWorker:
    """How workers load a model.

    Args:
        cluster: Where they are; a model is shipped only where there are several machines.
        model: The one that is loaded here, which theirs must be.
        name: As the user named it.
        settings: For `load`, besides the dtype and the kind of device, which are as here.
    """
    source = model.source
    settings["dtype"] = model.dtype
    # A worker sees the devices that are its own, and counts them from 0.
    settings["device"] = torch.device(model.device).type
    place = source.gguf if source.gguf is not None else source.folder
    if not Path(name).exists() and name != "demo":
        return ModelOnWorker(name, False, settings)
    found = Path(place).resolve()
    files, digest = None, ""
    nodes = [node for node in cluster.ray.nodes() if node["Alive"]]
    if len(nodes) > 1 and _size(found) <= _MOST_SHIPPED:
        data = _read(found)
        files, digest = cluster.ray.put(data), digest_of(data)
    return ModelOnWorker(str(found), True, settings, files, digest)


def _files(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(p for p in place.iterdir() if p.is_file())


def _size(place: Path) -> int:
    return sum(each.stat().st_size for each in _files(place))


def _read(place: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in _files(place)}


def digest_of(files: dict[str, bytes]) -> str:
    """What names a model's files on a machine that they are shipped to."""
    whole = hashlib.sha256()
    for name, data in files.items():
        whole.update(f"{name} {len(data)} ".encode(errors="surrogateescape") + data)
    return whole.hexdigest()[:16]


def _written(name: str, files: Any, digest: str) -> str:
    """A shipped model in a folder of this machine, which its workers share.

    Raises:
        ModelError: If another user made the folder.
    """
    import ray

    folder = Path(tempfile.gettempdir()) / f"depthprune-{_user()}-{digest}"
    if not folder.exists():
        made = Path(tempfile.mkdtemp(prefix=folder.name))
        try:
            for each, data in ray.get(files).items():
                (made / each).write_bytes(data)
            with suppress(OSError):  # Another worker of this machine was faster.
                made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    # Where it lies, anyone may have made a folder of that name.
    if folder.lstat().st_uid != _user():
        raise ModelError(
            f"{folder}: is another user's and is not read; have it removed, or start the worker "
            "with a TMPDIR of its own"
        )
    return str(folder if not name.endswith(".gguf") else folder / Path(name).name)


def _user() -> int:
    """The number that this user's files carry; on Windows all carry the same."""
    return 0 if sys.platform == "win32" else os.getuid()
