"""The parameters outside the blocks that scale the state before the first: found, and proved.

They are those of the embeddings. A head that shares the embeddings' weights would give larger
logits; the norm before it is divided by as much, and that too is proved.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import ModelError
from depthprune.models.blocks.anatomy import Anatomy
from depthprune.models.blocks.carried import Carried, hidden
from depthprune.models.blocks.replay import relative_difference
from depthprune.models.probe_tokens import probe_tokens
from depthprune.recovery.delta import Scaled
from depthprune.recovery.linear.fold import swapped
from depthprune.recovery.linear.probe import BATCH, LENGTH
from depthprune.recovery.magnitude.block_scaling import LIMIT, TRIED, few


def outer_scaling(anatomy: Anatomy) -> dict[str, tuple[float, bool]]:
    """The parameters outside the blocks that scale the state before block 0.

    Returns:
        By dotted name in the model an offset as for a block, and whether the parameter is divided
        by the factor instead: those of the norm before a head that shares the embeddings' weights.

    Raises:
        ModelError: If they cannot be scaled, naming what stands in the way.
    """
    module: Any = anatomy.module
    inside = f"{anatomy.blocks.path}."
    chain = anatomy.head.chain or ()
    of_head = {id(p) for link in chain for p in link.parameters()}
    embeddings = module.get_input_embeddings().weight
    outer = {
        name: p
        for name, p in module.named_parameters()
        if not name.startswith(inside) and (p is embeddings or id(p) not in of_head)
    }
    tokens = probe_tokens(module, (BATCH, LENGTH), seed=0).to(anatomy.device)
    if chain:
        _refuse_other_inputs(anatomy, tokens, outer)
    tables = [n for n, p in outer.items() if p.dim() == 2 and _is_embedding(module, n)]
    vectors = [n for n, p in outer.items() if p.dim() == 1]
    states = anatomy.record(tokens).states
    if isinstance(states, Carried) or not anatomy.blocks.layout.is_usual:
        raise ModelError(
            "--recover magnitude: the blocks hand on more than hidden states, and that has a size "
            "of its own; pass --recover linear"
        )
    for names in (tables, vectors):
        if names and _scales(anatomy, tokens, names):
            found = dict.fromkeys(names, (0.0, False))
            tied = any(p is embeddings for link in chain for p in link.parameters())
            if embeddings is not None and tied and _name_of(module, embeddings) in names:
                found |= _head_scaling(anatomy)
            elif not chain and _name_of(module, embeddings) in names:
                _require_untied(module, embeddings)
            return found
    raise ModelError(
        f"--recover magnitude: the state before block 0 does not scale with {few(tables)}; "
        f"{few([n for n in outer if n not in tables])} stand in the way; pass --recover linear"
    )


def _refuse_other_inputs(anatomy: Anatomy, tokens: Tensor, outer: Iterable[str]) -> None:
    """Refuse a model with parameters before the blocks, of a picture's, that text never meets."""
    met: set[nn.Module] = set()
    with ExitStack() as stack:
        for module in anatomy.module.modules():
            hook = module.register_forward_pre_hook(lambda module, _: met.add(module))
            stack.callback(hook.remove)
        anatomy.record(tokens)
    others = [n for n in outer if anatomy.module.get_submodule(n.rpartition(".")[0]) not in met]
    if others:
        raise ModelError(
            f"--recover magnitude: {few(others)} read other inputs than text, and the states that "
            "they give would not be scaled; pass --recover linear"
        )


def _is_embedding(module: nn.Module, name: str) -> bool:
    return isinstance(module.get_submodule(name.rpartition(".")[0]), nn.Embedding)


def _name_of(module: nn.Module, parameter: Tensor) -> str:
    return next(name for name, p in module.named_parameters() if p is parameter)


def _require_untied(module: Any, embeddings: Tensor) -> None:
    output = module.get_output_embeddings()
    if output is not None and output.weight is embeddings:
        raise ModelError(
            f"--recover magnitude: {_name_of(module, embeddings)} is the head's too, and what is "
            "between the last block and the head is not a norm alone; pass --recover linear"
        )


def _scales(anatomy: Anatomy, tokens: Tensor, names: Sequence[str]) -> bool:
    """Whether scaling these parameters scales the state before block 0."""
    base = hidden(anatomy.record(tokens).states).float().clone()
    # A power of two, so that bfloat16 rounds alike.
    new = {name: 2.0 * anatomy.module.get_parameter(name).data for name in names}
    with swapped(anatomy.module, new):
        state = hidden(anatomy.record(tokens).states).float()
    return relative_difference(state, 2.0 * base) <= LIMIT


def _head_scaling(anatomy: Anatomy) -> dict[str, tuple[float, bool]]:
    """The norm before a head that shares the embeddings' weights, by what it is divided."""
    chain = anatomy.head.chain or ()
    module = anatomy.module
    norm = copy.deepcopy(chain[0]).float() if len(chain) == 2 else None
    names = {m: name for name, m in module.named_modules()}
    own = {} if norm is None else dict(norm.named_parameters())
    if norm is not None and "weight" in own and set(own) <= {"weight", "bias"}:
        generator = torch.Generator().manual_seed(0)
        width = own["weight"].numel()
        given = torch.randn(BATCH, LENGTH, width, generator=generator).to(own["weight"].device)
        with torch.inference_mode():
            base = norm(given)
            for offset in (0.0, 1.0):
                new = {
                    n: Scaled(1 / TRIED, offset if n == "weight" else 0.0).added_to(p.data)
                    for n, p in own.items()
                }
                with swapped(norm, new):
                    if relative_difference(norm(given), base / TRIED) <= LIMIT:
                        prefix = names[chain[0]]
                        return {
                            f"{prefix}.{n}": (offset if n == "weight" else 0.0, True) for n in own
                        }
    raise ModelError(
        "--recover magnitude: the head shares the embeddings' weights, and what is before it "
        f"({', '.join(names[link] for link in chain[:-1]) or 'no norm'}) cannot be divided by as "
        "much; pass --recover linear"
    )
