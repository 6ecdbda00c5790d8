"""What the memo is asked for and answers, and where it lies."""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from depthprune.errors import OutputError
from depthprune.outputs import cache_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from depthprune.calibration import Item


@dataclass(frozen=True)
class Context:
    """All that a loss depends on besides the window and the removed set.

    Attributes:
        weights: Fingerprint of the weights.
        dtype: What the model computes in.
        device: Kind of the device: `cpu`, `cuda` or `mps`, and `+products` where attention is
            computed by products.
        torch: Version of torch, and of transformers.
        objective: The objective's name with all its parameters; of one from elsewhere, its class
            too.
        arithmetic: Fingerprint of what the device computes, with its number of threads.
        recovery: What was done to repair the pruned model, if anything.
    """

    weights: str
    dtype: str
    device: str
    torch: str
    objective: str
    arithmetic: str = ""
    recovery: str = ""

    def key(self) -> str:
        """SHA-256 of all fields, in hexadecimal."""
        return hashlib.sha256(json.dumps(astuple(self)).encode()).hexdigest()


@dataclass(frozen=True)
class KnownLosses:
    """The losses of one removed set on the windows asked for, and where they are known.

    The losses are NaN where they are not known; a known one may be NaN or infinite too.
    """

    losses: NDArray[np.float64]
    known: NDArray[np.bool_]


@dataclass(frozen=True)
class ContextStatistics:
    """A context, its models' names, its number of losses and its last use (seconds since 1970)."""

    context: Context
    names: tuple[str, ...]
    losses: int
    used: float


@dataclass(frozen=True)
class MemoStatistics:
    """A memo's size on disk, its distinct sets and windows, and its contexts, last used first."""

    bytes: int
    sets: int
    windows: int
    contexts: tuple[ContextStatistics, ...]


def window_key(
    tokens: NDArray[np.int64],
    scored: NDArray[np.bool_],
    item: Item | None = None,
    shape: str = "",
) -> bytes:
    """Sixteen bytes that stand for a window, and for the call that it is run in.

    Args:
        tokens: Its tokens.
        scored: Which of them count.
        item: Its options.
        shape: Of the call, which its loss follows by rounding.
    """
    import numpy as np

    digest = hashlib.blake2b(digest_size=16)
    digest.update(len(tokens).to_bytes(8, "little") + len(scored).to_bytes(8, "little"))
    digest.update(tokens.astype("<i8").tobytes())
    digest.update(np.packbits(scored).tobytes())
    if item is not None:
        digest.update(item.facts().tobytes())
    digest.update(shape.encode())
    return digest.digest()


def default_path() -> Path:
    """The memo's place in the user's cache folder."""
    try:
        return cache_folder() / "memo.sqlite"
    except OutputError as error:
        raise OutputError(f"memo: {error}, or pass --memo PATH or --memo off") from error
