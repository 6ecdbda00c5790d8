"""`--recover magnitude`: the state before each gap scaled to the size of the state behind it.

A removed run leaves the state before it where a larger one (as a rule) was expected. With α the
mean of |state| behind the run over that before it, all that writes into the residual stream below
the gap is multiplied by α: embeddings, and in each block what attention and MLP add. Norms make
what the blocks read the same as before, so the state before the gap is α times what it was, and
nothing is fitted or trained (Prune&Comp, arXiv 2507.18212). Which weights those are is found by
running float32 copies of the modules and proved: the embeddings' output, and each block on a state
α times as large, must come out α times as large. A head that shares the embeddings' weights would
give larger logits; the norm before it is divided by as much, and that too is proved.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.calibration import Calibration, require_positions
from depthprune.errors import ModelError
from depthprune.evaluator.memory import host_bytes
from depthprune.evaluator.state_store import StateStore, StoredState
from depthprune.models.blocks.anatomy import Anatomy
from depthprune.models.blocks.carried import Carried, hidden
from depthprune.models.blocks.replay import hidden_of, relative_difference
from depthprune.models.devices import plain_products
from depthprune.models.free_memory import available_memory
from depthprune.models.loading import Model
from depthprune.models.probe_tokens import probe_tokens
from depthprune.progress import SILENT, Progress
from depthprune.recovery.delta import Scaled
from depthprune.recovery.linear.fold import swapped
from depthprune.recovery.linear.fold_target import CannotFoldError, find_fold_target
from depthprune.recovery.linear.layerwise_fit import Walk
from depthprune.recovery.linear.massive_activations import massive
from depthprune.recovery.linear.normal_equations import wide
from depthprune.recovery.linear.probe import BATCH, LENGTH, Probe
from depthprune.recovery.linear.stages import find_stages
from depthprune.recovery.methods import Linear
from depthprune.recovery.recover import call_tokens, refuse_quantized
from depthprune.recovery.result import Recovery, RunRecovery, runs_of
from depthprune.recovery.splits import FitBatch, batches
from depthprune.removed_sets import check_removed

_LIMIT = 1e-3
"""Relative differences in float32 that rounding, and a norm's epsilon, explain."""

_TRIED = 1.5
"""The factor by which it is proved that something can be scaled."""


@dataclass(frozen=True)
class Factor:
    """By what all below one run is multiplied.

    Attributes:
        run: The removed blocks.
        factor: α.
    """

    run: tuple[int, ...]
    factor: float


def scales_of(factors: Sequence[Factor], kept: Sequence[int]) -> dict[int, float]:
    """What each kept block's additions are multiplied by; -1 stands for the embeddings."""
    scales = {}
    for block in (-1, *kept):
        scale = 1.0
        for each in factors:
            if block < each.run[0]:
                scale *= each.factor
        scales[block] = scale
    return {block: scale for block, scale in scales.items() if scale != 1.0}


def block_scaling(anatomy: Anatomy, block: int) -> dict[str, float]:
    """The parameters of a block that scale all it adds, with what each is counted from.

    Args:
        anatomy: Of the model; the block's weights must be in memory.
        block: Original number.

    Returns:
        By dotted name in the block an offset: a norm that multiplies by 1 + w has 1.

    Raises:
        ModelError: If the block cannot be scaled, naming what stands in the way.
    """
    try:
        target = find_fold_target(anatomy, block)
        terms, names = target.terms, {weight.name: 0.0 for weight in target.weights}
    except CannotFoldError:
        terms, names = (), {}
    stages = find_stages(anatomy, block, terms)
    probe = _probe(anatomy, block)
    own = dict(probe.module.named_parameters())
    for stage in stages:
        if stage.scale is None:
            continue
        module = stage.norm.module if stage.norm else stage.layers[0].module
        offset = 0.0
        if stage.norm is not None:
            gain = stage.norm.gain.to(own[f"{module}.weight"])
            offset = round((gain - own[f"{module}.weight"]).mean().item())
        names[f"{module}.weight"] = float(offset)
        if f"{module}.bias" in own:
            names[f"{module}.bias"] = 0.0
    with plain_products(), torch.inference_mode():
        _prove(anatomy, probe, names)
    _refuse_shared(anatomy, block, names)
    return names


def _probe(anatomy: Anatomy, block: int) -> Probe:
    try:
        with plain_products():
            return Probe(anatomy, block)
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ModelError(
            f"--recover magnitude: block {block} could not be probed; pass --recover linear"
        ) from error


def _prove(anatomy: Anatomy, probe: Probe, names: Mapping[str, float]) -> None:
    """Whether the block on a state scaled by a factor gives one scaled alike."""
    # Larger than embeddings are, so that a norm's epsilon is nothing beside it.
    state = probe.random(BATCH, LENGTH, probe.width) * 4

    def run(states: Tensor) -> Tensor:
        args = tuple(states if _is_state(a, states) else a for a in probe.args)
        kwargs = {k: states if _is_state(a, states) else a for k, a in probe.kwargs.items()}
        return hidden_of(probe.module(*args, **kwargs))

    base = run(state)
    own = {name: probe.module.get_parameter(name).data for name in names}
    new = {name: Scaled(_TRIED, offset).added_to(own[name]) for name, offset in names.items()}
    with swapped(probe.module, new):
        scaled = run(_TRIED * state)
    if relative_difference(scaled, _TRIED * base) > _LIMIT:
        rest = [name for name, p in probe.module.named_parameters() if name not in names]
        raise ModelError(
            f"--recover magnitude: block {probe.number} does not scale with {', '.join(names)}: "
            f"what {_few(rest)} add has a size of its own; pass --recover linear"
        )


def _is_state(value: Any, like: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == like.shape and value.is_floating_point()


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown} or {len(names) - 4} more" if len(names) > 4 else shown or "no parameter"


def _refuse_shared(anatomy: Anatomy, block: int, names: Mapping[str, float]) -> None:
    ours = {id(anatomy.blocks.modules[block].get_parameter(name)): name for name in names}
    holders: dict[int, int] = {}
    for _, parameter in anatomy.module.named_parameters(remove_duplicate=False):
        holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    shared = [name for key, name in ours.items() if holders.get(key, 1) > 1]
    if shared:
        raise ModelError(
            f"--recover magnitude: block {block} shares {shared[0]} with another module, which "
            "would be scaled too; pass --recover linear"
        )


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
    tables = [n for n, p in outer.items() if p.dim() == 2 and _is_embedding(module, n)]
    vectors = [n for n, p in outer.items() if p.dim() == 1]
    tokens = probe_tokens(module, (BATCH, LENGTH), seed=0, first=3).to(anatomy.device)
    states = anatomy.record(tokens).states
    if isinstance(states, Carried) or not anatomy.blocks.layout.is_usual:
        raise ModelError(
            "--recover magnitude: the blocks hand on more than hidden states, and that has a size "
            "of its own; pass --recover linear"
        )
    for names in (tables, vectors):
        scaled = _Outer(anatomy, tokens).scales(names)
        if names and scaled:
            found = dict.fromkeys(names, (0.0, False))
            tied = any(p is embeddings for link in chain for p in link.parameters())
            if embeddings is not None and tied and _name_of(module, embeddings) in names:
                found |= _head_scaling(anatomy)
            elif not chain and _name_of(module, embeddings) in names:
                _require_untied(module, embeddings)
            return found
    raise ModelError(
        f"--recover magnitude: the state before block 0 does not scale with {_few(tables)}; "
        f"{_few([n for n in outer if n not in tables])} stand in the way; pass --recover linear"
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


class _Outer:
    """The embeddings with some parameters scaled, in float32 for the proof."""

    def __init__(self, anatomy: Anatomy, tokens: Tensor) -> None:
        self._anatomy = anatomy
        self._tokens = tokens
        self._base = hidden(anatomy.record(tokens).states).float().clone()

    def scales(self, names: Sequence[str]) -> bool:
        """Whether scaling these parameters scales the state before block 0."""
        module = self._anatomy.module
        # A power of two, so that bfloat16 rounds alike.
        new = {name: 2.0 * module.get_parameter(name).data for name in names}
        with swapped(module, new):
            state = hidden(self._anatomy.record(self._tokens).states).float()
        return relative_difference(state, 2.0 * self._base) <= _LIMIT


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
                    n: Scaled(1 / _TRIED, offset if n == "weight" else 0.0).added_to(p.data)
                    for n, p in own.items()
                }
                with swapped(norm, new):
                    if relative_difference(norm(given), base / _TRIED) <= _LIMIT:
                        prefix = names[chain[0]]
                        return {
                            f"{prefix}.{n}": (offset if n == "weight" else 0.0, True) for n in own
                        }
    raise ModelError(
        "--recover magnitude: the head shares the embeddings' weights, and what is before it "
        f"({', '.join(names[link] for link in chain[:-1]) or 'no norm'}) cannot be divided by as "
        "much; pass --recover linear"
    )


@torch.no_grad()
def rescale(
    model: Model,
    removed: Sequence[int],
    calibration: Calibration,
    *,
    progress: Progress = SILENT,
) -> Recovery:
    """Scale what is below each run of removed blocks. The model itself is left as it is.

    Args:
        model: The dense original.
        removed: Original block numbers.
        calibration: On whose windows states are measured.
        progress: Where the work shows itself.

    Raises:
        EvaluationError: If an activation is NaN or infinite.
        ModelError: If the model is quantized, or something cannot be scaled.
        UsageError: If the removed set does not fit the model.
    """
    gone = check_removed(removed, model.blocks)
    refuse_quantized(model)
    require_positions(model, calibration)
    anatomy = model.anatomy
    outer = outer_scaling(anatomy)
    factors, runs = _measured(model, gone, calibration, progress)
    scales = scales_of(factors, [b for b in range(model.blocks) if b not in gone])
    deltas: dict[str, Scaled] = {}
    weights: dict[str, Tensor] = {}
    for block, scale in scales.items():
        if block < 0:
            for name, (offset, divided) in outer.items():
                deltas[name] = Scaled(1 / scale if divided else scale, offset)
                weights[name] = deltas[name].added_to(model.module.get_parameter(name).data)
            continue
        with anatomy.holding(block):
            for inner, offset in block_scaling(anatomy, block).items():
                name = f"{anatomy.blocks.path}.{block}.{inner}"
                deltas[name] = Scaled(scale, offset)
                weight = deltas[name].added_to(model.module.get_parameter(name).data)
                weights[name] = weight.cpu() if anatomy.stream is not None else weight
    return Recovery(gone, runs, weights, deltas=deltas)


def _measured(
    model: Model, gone: tuple[int, ...], calibration: Calibration, progress: Progress
) -> tuple[list[Factor], tuple[RunRecovery, ...]]:
    """The factor of each run, from the dense model's states before and behind it."""
    shares = [part.share for part in calibration.parts]
    store = StateStore(int(available_memory(torch.device(model.device)) / 2), host_bytes(model))
    made = batches(calibration, call_tokens(model))
    tokens = sum(batch.tokens.numel() for batch in made)
    factors, runs = [], []
    try:
        walk = Walk(model.anatomy, made, shares, store, Linear(refit="none"))
        if walk.streams:
            raise ModelError(
                "--recover magnitude: the blocks work on several streams of states at once; pass "
                "--recover linear"
            )
        with progress.step("measuring states", tokens * (gone[-1] + 1), "block-tokens") as step:
            walk.step = step
            for run in runs_of(gone):
                walk.pass_dense(run[0])
                before = list(walk.dense)
                walk.pass_dense(run[-1] + 1)
                apart = massive(*((hidden(s.get()) for s in each) for each in (before, walk.dense)))
                weights = walk.weights_of(apart)
                sizes = [_size(states, apart, made, weights) for states in (before, walk.dense)]
                factors.append(Factor(run, sizes[1] / sizes[0]))
                told = RunRecovery(run, run[0] - 1 if run[0] else None)
                runs.append(
                    replace(
                        told,
                        strength=1.0,
                        tokens=sum(int((~away).sum()) for away in apart),
                        apart=sum(int(away.sum()) for away in apart),
                        factor=factors[-1].factor,
                    )
                )
    finally:
        store.close()
    return factors, tuple(runs)


def _size(
    states: Sequence[StoredState],
    apart: Sequence[Tensor],
    made: Sequence[FitBatch],
    weights: Sequence[float],
) -> float:
    """Mean of |state| over the fitted tokens that are not apart, the sources by their shares."""
    total = 0.0
    for state, away, batch in zip(states, apart, made, strict=True):
        if not batch.chooses:
            rows = wide(hidden(state.get())).flatten(0, -2)
            total += weights[batch.part] * rows[~away.to(rows.device)].abs().mean(-1).sum().item()
    return total
