"""What the losses of a model depend on: the contexts under which a memo keeps them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
import transformers

from depthprune.evaluator.memo.records import Context
from depthprune.models.loading import Model
from depthprune.objectives import Mixture, Objective


def contexts_of(model: Model, objective: Mixture, products: bool, rounds: str) -> list[Context]:
    """A context for each component of an objective.

    Args:
        model: What computes them.
        objective: Whose losses.
        products: Whether attention is computed by products, which rounds differently.
        rounds: Names the arithmetic of whatever computes them.

    Returns:
        None at all for weights that have no fingerprint, which are not stored.
    """
    weights = model.fingerprint
    if weights is None:
        return []
    device = torch.device(model.device).type + ("+products" if products else "")
    # The blocks' arithmetic is transformers', and changes with it.
    versions = f"{torch.__version__}, transformers {transformers.__version__}"
    if (code := model.source.code_fingerprint()) is not None:
        versions += f", code {code[:16]}"
    if model.written_dtype != model.dtype:
        versions += f", weights rounded to {model.written_dtype}"
    recovery = " + ".join(map(_fingerprint, model.mended))
    return [
        Context(
            weights, model.dtype, device, versions, _full_name(component.objective), rounds,
            recovery,
        )
        for component in objective.components
    ]  # fmt: skip


def _fingerprint(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of new weights, in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _full_name(objective: Objective) -> str:
    """An objective's name; one that is not this package's may have the name of one that is."""
    kind = type(objective)
    if kind.__module__.startswith("depthprune.objectives."):
        return objective.name
    return f"{objective.name} ({kind.__module__}.{kind.__qualname__})"
