"""The head by tiles of the vocabulary, against logits of whole chunks, in turns on the same states.

Time of each, and how far each is from float64: the same states and weights, log-softmax over all of
the vocabulary in float64. The bare product of the head, of whole chunks, stands beside them.

    python benchmarks/head.py --model demo --tokens 512 --repeats 5
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import depthprune as dp
from depthprune.evaluator.tile_walk import losses_by_tiles
from depthprune.models.blocks.carried import hidden
from depthprune.models.blocks.projection import Finish, Projection
from depthprune.models.loading import Model
from depthprune.objectives import KL, NLL
from depthprune.objectives.nll import token_nll
from depthprune.objectives.rows import rows_at_once
from depthprune.objectives.tiles import Tiled

CHUNK = 256
Key = tuple[int, ...]


@torch.inference_mode()
def finals(model: Model, tokens: Tensor, sets: list[Key]) -> dict[Key, Tensor]:
    """States behind the last block, of the tokens but the last, shape (n, width)."""
    inputs = model.anatomy.record(tokens)
    found = {}
    for removed in sets:
        state = inputs.states
        for block in range(model.blocks):
            if block not in removed:
                state = model.anatomy.call(block, state, inputs)
        found[removed] = hidden(state)[0, :-1]
    return found


def _whole(objective: Tiled, logits: Tensor, targets: Tensor, dense: Tensor) -> Tensor:
    if isinstance(objective, NLL):
        return token_nll(logits, targets)
    losses = []
    for part in rows_at_once(logits):
        ours, theirs = logits[part].float().log_softmax(-1), dense[part].float().log_softmax(-1)
        losses.append((theirs.exp() * (theirs - ours)).sum(-1))
    return torch.cat(losses)


@torch.inference_mode()
def by_chunks(
    objective: Tiled, model: Model, states: dict[Key, Tensor], targets: Tensor
) -> dict[Key, Tensor]:
    """Each set's losses from logits over the whole vocabulary, a chunk of tokens at a time."""
    parts: dict[Key, list[Tensor]] = {removed: [] for removed in states}
    for first in range(0, len(targets), CHUNK):
        rows = slice(first, first + CHUNK)
        dense = model.anatomy.head(states[()][None, rows])[0]
        for removed, state in states.items():
            logits = model.anatomy.head(state[None, rows])[0] if removed else dense
            parts[removed].append(_whole(objective, logits, targets[rows], dense))
    return {removed: torch.cat(losses) for removed, losses in parts.items()}


@torch.inference_mode()
def exact(
    objective: Tiled, projection: Projection, states: dict[Key, Tensor], targets: Tensor
) -> dict[Key, Tensor]:
    """The losses in float64, a few rows at a time."""
    weight = projection.linear.weight.double()

    def log(state: Tensor) -> Tensor:
        for link in projection.before:
            state = link(state)
        return (state.double() @ weight.T).log_softmax(-1)

    answer: dict[Key, list[Tensor]] = {removed: [] for removed in states}
    for first in range(0, len(targets), 32):
        rows = slice(first, first + 32)
        dense = log(states[()][rows])
        for removed, state in states.items():
            ours = log(state[rows])
            if isinstance(objective, NLL):
                answer[removed].append(-ours.gather(1, targets[rows, None])[:, 0])
            else:
                answer[removed].append((dense.exp() * (dense - ours)).sum(-1))
    return {removed: torch.cat(parts) for removed, parts in answer.items()}


def timed(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = dp.load(options.model)
    projection = model.anatomy.head.projection
    assert projection is not None, "the head of this model cannot be taken apart"
    assert projection.finish == Finish(), "it scales or caps its logits"
    spec = f"stdlib-prose,windows=1,length={options.tokens + 1},seed=0"
    tokens = torch.from_numpy(dp.calibrate(spec, model).windows[0].tokens)[None]
    sets: list[Key] = [(), (model.blocks // 2,), (2, 3), (model.blocks - 2,)]
    states, targets = finals(model, tokens, sets), tokens[0, 1:]
    heads = dict.fromkeys(sets, projection)
    print(f"{len(targets)} tokens, {len(sets)} sets, {model.dtype}, one thread, its own time")
    print(f"{'':6}{'tiles s':>9}{'chunks s':>10}{'ratio':>7}{'product s':>11}", end="")
    print("   error of a token and of the mean: tiles, chunks")
    with torch.inference_mode():
        for name, objective in (("nll", NLL()), ("kl", KL())):
            times: dict[str, list[float]] = {"tiles": [], "chunks": [], "product": []}
            for _ in range(options.repeats + 1):
                times["tiles"].append(
                    timed(lambda o=objective: losses_by_tiles([o], heads, states, targets, ()))  # type: ignore[misc]
                )
                times["chunks"].append(
                    timed(lambda o=objective: by_chunks(o, model, states, targets))  # type: ignore[misc]
                )
                times["product"].append(
                    timed(
                        lambda: [
                            projection.linear(state[first : first + CHUNK])
                            for state in states.values()
                            for first in range(0, len(targets), CHUNK)
                        ]
                    )
                )
            tiles, chunks, product = (statistics.median(each[1:]) for each in times.values())
            ratio = statistics.median(
                a / b for a, b in zip(times["chunks"][1:], times["tiles"][1:], strict=True)
            )
            print(f"{name:6}{tiles:>9.3f}{chunks:>10.3f}{ratio:>7.2f}{product:>11.3f}", end="")
            reference = exact(objective, projection, states, targets)
            found = losses_by_tiles([objective], heads, states, targets, ())
            for losses in (
                {key: each[0] for key, each in found.items()},
                by_chunks(objective, model, states, targets),
            ):
                apart = [losses[key].double() - reference[key] for key in sets[1:]]
                token = torch.stack(apart).abs().mean()
                mean = torch.stack([each.mean() for each in apart]).abs().max()
                print(f"   {token:.1e} {mean:.1e}", end="")
            print(flush=True)


if __name__ == "__main__":
    main()
