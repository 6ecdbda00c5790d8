"""Assisted generation: a small model drafts tokens, the large one verifies them in one pass.

Greedy outputs are the large model's own, token for token, but where the rounding of a pass over
several tokens parts two that are all but equally likely; so outputs are compared, and what parts
them is told. How many drafted tokens are taken is counted as transformers goes on, and a length of
drafts is kept, which transformers would change by itself.

Source: Leviathan, Kalman and Matias, Fast Inference from Transformers via Speculative Decoding,
arXiv 2211.17192.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from depthprune.models.devices import synchronize
from depthprune.models.plain_generation import plain_generation
from depthprune.models.pretrained import quiet_transformers


@dataclass
class DraftCounts:
    """What became of drafts.

    Attributes:
        length: Tokens of a draft.
        taken: For each draft, how many of its tokens were taken.
        offered: For each draft, how many it had; fewer than `length` at the end of a text.
    """

    length: int
    taken: list[int] = field(default_factory=list)
    offered: list[int] = field(default_factory=list)

    @property
    def acceptance(self) -> float:
        """The share of drafted tokens that were taken, of those whose forerunners were.

        It is the likeliest rate of independent acceptances: what follows a token that was refused
        was never looked at. NaN where nothing was drafted.
        """
        looked_at = sum(
            min(taken + 1, offered) for taken, offered in zip(self.taken, self.offered, strict=True)
        )
        return sum(self.taken) / looked_at if looked_at else float("nan")


def predicted_speedup(acceptance: float, length: int, cost: float) -> float:
    """How much faster text is written with drafts than without.

    Args:
        acceptance: Of a drafted token.
        length: Tokens of a draft.
        cost: Of one drafted token, in tokens of the large model.

    Source: theorem 3.8 of arXiv 2211.17192.
    """
    if acceptance >= 1.0:
        return (length + 1) / (length * cost + 1)
    written = (1 - acceptance ** (length + 1)) / (1 - acceptance)
    return written / (length * cost + 1)


def best_length(acceptance: float, cost: float) -> int:
    """The length of drafts that is fastest, from 1 to 16.

    Args:
        acceptance: Of a drafted token.
        cost: Of one drafted token, in tokens of the large model.
    """
    return max(range(1, 17), key=lambda n: predicted_speedup(acceptance, n, cost))


@dataclass(frozen=True)
class Continuation:
    """A continuation.

    Attributes:
        tokens: That were written.
        seconds: It took.
    """

    tokens: tuple[int, ...]
    seconds: float


def write(
    model: Any,
    prompt: Sequence[int],
    new_tokens: int,
    *,
    draft: Any = None,
    drafted: DraftCounts | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> Continuation:
    """Continue a prompt by exactly so many tokens.

    Args:
        model: A transformers model.
        prompt: Token ids.
        new_tokens: How many.
        draft: The model that drafts, if one does.
        drafted: Counts what became of drafts; needed with one.
        temperature: Of the sampling; 0 takes the likeliest token.
        seed: Of the sampling; the process's own random state is left as it was.
    """
    device = next(model.parameters()).device
    ids = torch.tensor([list(prompt)], device=device)
    settings: dict[str, Any] = {"do_sample": temperature > 0}
    if temperature > 0:
        settings |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), quiet_transformers(), torch.inference_mode():
        torch.manual_seed(seed)
        with plain_generation(model), _drafting(draft, drafted) as assistant:
            synchronize(device)
            began = time.perf_counter()
            written = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                **settings,
                **assistant,
            )
            synchronize(device)
            seconds = time.perf_counter() - began
    return Continuation(tuple(written[0, len(prompt) :].tolist()), seconds)


class Pair(Protocol):
    """A model and its draft, in what runs them.

    Attributes:
        runtime: What runs them: `transformers` or `llama.cpp`.
        dtype: In which both compute; None where each does in what its file holds.
    """

    runtime: str
    dtype: str | None

    def write(
        self,
        which: int,
        prompt: Sequence[int],
        new_tokens: int,
        *,
        drafted: DraftCounts | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Continuation:
        """Continue a prompt by exactly so many tokens.

        Args:
            which: 0 is the model, 1 its draft.
            prompt: Token ids.
            new_tokens: How many.
            drafted: Counts what became of drafts; with it the model writes with them.
            temperature: Of the sampling; 0 takes the likeliest token.
            seed: Of the sampling.
        """
        ...

    def log_odds(self, before: Sequence[int], first: int, second: int) -> float:
        """By how many nats the model finds one token likelier than another.

        Args:
            before: Token ids that stand before it.
            first: A token id.
            second: Another.
        """
        ...

    def close(self) -> None:
        """Let go of both."""
        ...


class TransformersPair:
    """A model and its draft in transformers.

    Args:
        model: A transformers model.
        draft: Another.
        dtype: In which both compute.
    """

    runtime = "transformers"

    def __init__(self, model: Any, draft: Any, dtype: str | None) -> None:
        self._modules = (model, draft)
        self.dtype = dtype

    def write(
        self,
        which: int,
        prompt: Sequence[int],
        new_tokens: int,
        *,
        drafted: DraftCounts | None = None,
        **sampling: Any,
    ) -> Continuation:
        """See `Pair.write`."""
        model, draft = self._modules[which], None if drafted is None else self._modules[1]
        return write(model, prompt, new_tokens, draft=draft, drafted=drafted, **sampling)

    def log_odds(self, before: Sequence[int], first: int, second: int) -> float:
        """See `Pair.log_odds`."""
        return log_odds(self._modules[0], before, first, second)

    def close(self) -> None:
        """See `Pair.close`."""


@contextmanager
def _drafting(draft: Any, drafted: DraftCounts | None) -> Iterator[dict[str, Any]]:
    """Arguments of `generate` for the draft; inside, what becomes of drafts is counted."""
    if draft is None:
        yield {}
        return
    from transformers.generation import candidate_generator

    assert drafted is not None
    kind: Any = candidate_generator.AssistedCandidateGenerator
    true, drafts = kind.update_candidate_strategy, kind.get_candidates

    def count(self: Any, input_ids: Tensor, scores: Tensor, num_matches: Any) -> None:
        drafted.taken.append(int(num_matches))
        drafted.offered.append(int(scores.shape[1]) - 1)

    def draft_once(self: Any, *args: Any, **more: Any) -> Any:
        # The draft makes these of the same settings, and would divide by the temperature twice.
        self.logits_processor = []
        return drafts(self, *args, **more)

    kind.update_candidate_strategy, kind.get_candidates = count, draft_once
    try:
        with plain_generation(draft):
            own = draft.generation_config
            own.num_assistant_tokens = drafted.length
            own.num_assistant_tokens_schedule = "constant"
            own.assistant_confidence_threshold = 0.0
            yield {"assistant_model": draft}
    finally:
        kind.update_candidate_strategy, kind.get_candidates = true, drafts


def first_mismatch(first: Sequence[int], second: Sequence[int]) -> int | None:
    """Where two continuations part; None where they do not."""
    for place, (a, b) in enumerate(zip(first, second, strict=True)):
        if a != b:
            return place
    return None


def log_odds(model: Any, before: Sequence[int], first: int, second: int) -> float:
    """By how many nats one token is likelier than another, in one pass over what stands before.

    Args:
        model: A transformers model.
        before: Token ids.
        first: A token id.
        second: Another.
    """
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits = model(torch.tensor([list(before)], device=device)).logits[0, -1].float()
    return float((logits[first] - logits[second]).abs())
