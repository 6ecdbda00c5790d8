"""Rotary positions that a GGUF states and transformers' loader passes over.

Of what says how positions are rotated, transformers reads the base of the frequencies. A Llama from
3.1 on divides them by a table in its file, others scale them, linearly, by YaRN or by two tables,
or rotate a part of each head; without that, losses would be those of another model. What a config
has words for is put in them here, and a file that says something else is refused.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from depthprune.checkpoints.gguf.file import GgufFile
from depthprune.errors import ModelError

_TABLE, _LONG, _SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"

_OWN = frozenset({"gemma4", "gpt-oss"})
"""Architectures whose positions transformers knows without the file."""

_PARTIAL = frozenset({"nemotron", "phi3", "stablelm"})
"""Those that may rotate a part of each head, as their configs can say."""

_KNOWN = frozenset({"type", "factor", "original_context_length", "finetuned"})
"""Keys of `rope.scaling` that are told, or say nothing of what is computed."""

_LOW, _HIGH = 1.0, 4.0
"""Of a Llama: how often the longest wavelength that is divided, and the longest that is not, fit
into the text of its first training."""

_AGREES = 1e-3
"""Of a factor, which a file has in float32."""


def stated_positions(file: GgufFile) -> dict[str, Any]:
    """What a file says of its rotary positions beside their base, in the words of a config.

    Args:
        file: The header.

    Raises:
        ModelError: If a config has no words for it.
    """
    if file.architecture in _OWN:
        return {}
    return _scaling(file) | _part(file)


def _scaling(file: GgufFile) -> dict[str, Any]:
    prefix = f"{file.architecture}.rope.scaling."
    kind = file.get(f"{prefix}type") or "linear"
    factor = _number(file, "rope.scaling.factor") or _number(file, "rope.scale_linear")
    factor = 1.0 if kind == "none" else factor or 1.0
    original = _number(file, "rope.scaling.original_context_length")
    original = int(original or _number(file, "context_length"))
    tables = {tensor.name for tensor in file.tensors if tensor.name in (_TABLE, _LONG, _SHORT)}
    others = {
        entry.name.removeprefix(prefix) for entry in file.fields if entry.name.startswith(prefix)
    } - _KNOWN
    if tables == {_LONG, _SHORT} and others <= {"attn_factor"}:
        return {
            "rope_type": "longrope",
            "long_factor": _values(file, _LONG),
            "short_factor": _values(file, _SHORT),
            "original_max_position_embeddings": original,
            "attention_factor": _number(file, "rope.scaling.attn_factor") or 1.0,
        }
    if tables == {_TABLE} and factor == 1.0 and not others:
        return _of_table(file)
    if not tables and factor == 1.0 and kind in ("none", "linear", "yarn"):
        return {}
    if not tables and kind == "linear" and not others:
        return {"rope_type": "linear", "factor": factor}
    if not tables and kind == "yarn" and not others:
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
        }
    stated = sorted(tables | {f"{prefix}{name}" for name in others | {"type", "factor"}})
    raise _refused(file, ", ".join(name for name in stated if name in tables or file.get(name)))


def _part(file: GgufFile) -> dict[str, Any]:
    if file.architecture not in _PARTIAL:
        return {}
    names = ("rope.dimension_count", "attention.head_count", "embedding_length")
    rotated, heads, width = (_number(file, name) for name in names)
    return {"partial_rotary_factor": rotated * heads / width} if rotated and width else {}


def _of_table(file: GgufFile) -> dict[str, Any]:
    """Llama's way to divide frequencies: the short wavelengths by one, the long ones by a factor.

    Between the two, the share of either follows how often a wavelength fits into the text of the
    first training, whose length is read off such a share.
    """
    found = np.asarray(_values(file, _TABLE))
    factor = float(found.max())
    if np.allclose(found, 1.0):
        return {}
    if not (found >= 1.0).all():
        raise _refused(file, _TABLE)
    base = _number(file, "rope.freq_base") or 10_000.0
    wavelengths = 2 * math.pi * base ** (np.arange(len(found)) / len(found))
    share = (1 / found - 1 / factor) / (1 - 1 / factor)
    between = (share > _AGREES) & (share < 1 - _AGREES)
    fits = _LOW + share * (_HIGH - _LOW)
    original = float(np.median((wavelengths * fits)[between])) if between.any() else 8192.0
    shares = np.clip((original / wavelengths - _LOW) / (_HIGH - _LOW), 0.0, 1.0)
    if not np.allclose(1 / ((1 - shares) / factor + shares), found, rtol=_AGREES):
        raise _refused(file, _TABLE)
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": _LOW,
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": round(original),
    }


def _values(file: GgufFile, name: str) -> list[float]:
    tensor = next(tensor for tensor in file.tensors if tensor.name == name)
    if tensor.dtype != "F32":
        raise _refused(file, name)
    found = np.fromfile(file.path, "<f4", tensor.elements, offset=tensor.begin)
    return [float(value) for value in found]


def _number(file: GgufFile, key: str) -> float:
    """A number of the architecture's; 0 where the file states none."""
    found = file.get(f"{file.architecture}.{key}")
    return float(found) if isinstance(found, (int, float)) and math.isfinite(found) else 0.0


def _refused(file: GgufFile, what: str) -> ModelError:
    return ModelError(
        f"{file.path}: states rotary positions that transformers cannot be told of ({what}), so "
        "losses would be those of another model; search the folder that it was made from, or cut "
        "it without a search by depthprune apply --remove"
    )
