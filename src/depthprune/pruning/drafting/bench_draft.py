"""What `bench MODEL --draft DRAFT` does: assisted generation, measured, beside what is predicted.

The same prompts are continued with and without the draft, in turns, greedily and by sampling. The
prediction knows the acceptance that was seen and the cost of a drafted token that was timed, so
where it and the measured speed-up disagree, assisted generation itself costs time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from depthprune.calibration import calibrate, check_files, parse_calibration
from depthprune.errors import ModelError, UsageError
from depthprune.models.assisted import (
    Continuation,
    DraftCounts,
    Pair,
    first_mismatch,
    predicted_speedup,
)
from depthprune.progress import SILENT, Progress, ProgressStep
from depthprune.pruning.bench import MOST_TOKENS
from depthprune.pruning.drafting.draft_runtime import choose_runtime, open_pair
from depthprune.pruning.session import Loading, read_tokenizer

PROMPTS = "stdlib-prose,windows=6,order=random,length=64"
_MOST_LENGTH = 64


@dataclass(frozen=True)
class DraftRun:
    """One way of writing, with and without the draft.

    Attributes:
        temperature: Of the sampling; 0 takes the likeliest token.
        alone: Tokens a second without the draft, the median over prompts.
        assisted: With it.
        speedup: The median over prompts of the ratio.
        acceptance: The share of drafted tokens that were taken, of those looked at.
        drafts: How many were offered.
        predicted: The speed-up that acceptance and cost promise.
        equal: Greedy: prompts whose continuation was the same token for token.
        prompts: How many there were.
        parted_by: Greedy: of those that parted, by how many nats the two tokens differed at most
            where they did; None where none parted.
    """

    temperature: float
    alone: float
    assisted: float
    speedup: float
    acceptance: float
    drafts: int
    predicted: float
    equal: int | None
    prompts: int
    parted_by: float | None


@dataclass(frozen=True)
class BenchedDraft:
    """A draft, and the model that it drafts for.

    Attributes:
        model: As it was named.
        draft: As it was named.
        runtime: What ran them: `transformers` or `llama.cpp`.
        dtype: In which both computed; None in llama.cpp, where each does in what its file holds.
        length: Tokens of a draft.
        new_tokens: Of a continuation.
        cost: Of a drafted token, in tokens of the model, each written alone.
        runs: Greedy and sampled.
    """

    model: str
    draft: str
    runtime: str
    dtype: str | None
    length: int
    new_tokens: int
    cost: float
    runs: tuple[DraftRun, ...]

    def document(self) -> dict[str, Any]:
        """As `bench --draft --json` prints it."""
        facts = asdict(self)
        return {"schema": 1, **facts, "runs": [asdict(run) for run in self.runs]}


def bench_draft(
    model: str | Path,
    draft: str | Path,
    *,
    prompts: str = PROMPTS,
    length: int = 4,
    new_tokens: int = 32,
    temperature: float = 1.0,
    seed: int = 0,
    runtime: str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    progress: Progress = SILENT,
) -> BenchedDraft:
    """Measure how much faster a model writes with a draft.

    Args:
        model: A folder, a hub id, a `.gguf` file, or `demo`.
        draft: Such as a pruned copy of it; its vocabulary must be the model's.
        prompts: A spec of text, of which each window is a prompt.
        length: Tokens of a draft.
        new_tokens: Of each continuation.
        temperature: Of the sampling, above 0; a greedy run comes first in any case.
        seed: Of the sampling.
        runtime: `transformers`, `llama.cpp`, or `auto`: llama.cpp for two GGUF files.
        dtype: `auto`, `float32`, `bfloat16` or `float16`; both compute in the model's.
        device: `auto`, `cpu`, `cuda:1`, …
        trust_remote_code: Run code that a model's folder brings.
        allow_pickle: Read weights that are pickled.
        progress: Where long work shows itself.

    Raises:
        UsageError: If a number is out of range, or llama.cpp is to run what it cannot, or is not
            installed.
        ModelError: If the two do not share a vocabulary, or one cannot be loaded.
    """
    if not 1 <= length <= _MOST_LENGTH:
        raise UsageError(f"--draft-tokens: expected 1 to {_MOST_LENGTH}, got {length}")
    if not 2 <= new_tokens <= MOST_TOKENS:
        raise UsageError(
            f"--new-tokens: expected 2 to {MOST_TOKENS:,} with --draft, of which the last is never "
            f"drafted, got {new_tokens:,}"
        )
    if not temperature > 0 or temperature == float("inf"):
        raise UsageError(f"--temperature: expected a number above 0, got {temperature}")
    specs = parse_calibration(prompts)
    check_files(specs)
    loadings = [
        Loading(name, dtype, device, None, trust_remote_code, allow_pickle)
        for name in (model, draft)
    ]
    sources = [loading.find() for loading in loadings]
    chosen = choose_runtime(runtime, sources, dtype, device)
    readers = [read_tokenizer(source, progress) for source in sources]
    _check_vocabularies(sources[0].name, sources[1].name, *(r.tokenizer for r in readers))
    windows = calibrate(specs, readers[0], split="held-out").windows
    texts = [window.tokens.tolist() for window in windows]
    longest = max(map(len, texts))
    pair = open_pair(
        chosen, sources, longest, new_tokens, dtype=dtype, device=device, progress=progress
    )
    try:
        with progress.step(
            "writing with and without the draft", 2 * len(texts) * 3, "texts"
        ) as step:
            written = _writer(pair, texts[0], length, new_tokens, seed, step)
            cost = _cost(texts, written)
            runs = tuple(
                _run(pair, texts, spread, length, cost, written) for spread in (0.0, temperature)
            )
    finally:
        pair.close()
    return BenchedDraft(
        model=sources[0].name,
        draft=sources[1].name,
        runtime=pair.runtime,
        dtype=pair.dtype,
        length=length,
        new_tokens=new_tokens,
        cost=cost,
        runs=runs,
    )


def _writer(
    pair: Pair, text: Sequence[int], length: int, new_tokens: int, seed: int, step: ProgressStep
) -> Callable[..., Continuation]:
    """What continues a text by one of the two, once each was run on one."""
    # The first call of a process is slower than all others.
    for drafted in (None, DraftCounts(length)):
        for which in (0, 1) if drafted is None else (0,):
            pair.write(which, text, 2, drafted=drafted)

    def written(which: int, text: Sequence[int], **more: Any) -> Continuation:
        found = pair.write(which, text, new_tokens, seed=seed, **more)
        step.advance(1)
        return found

    return written


def _cost(texts: Sequence[Sequence[int]], written: Callable[..., Continuation]) -> float:
    """Of a drafted token in tokens of the model; by turns, the median over prompts."""
    ratios = []
    for text in texts:
        large, small = (written(which, text) for which in (0, 1))
        ratios.append(small.seconds / large.seconds)
    return statistics.median(ratios)


def _run(
    pair: Pair,
    texts: Sequence[Sequence[int]],
    temperature: float,
    length: int,
    cost: float,
    written: Callable[..., Continuation],
) -> DraftRun:
    drafted = DraftCounts(length)
    pairs = []
    for text in texts:
        alone = written(0, text, temperature=temperature)
        helped = written(0, text, temperature=temperature, drafted=drafted)
        pairs.append((text, alone, helped))
    greedy = temperature == 0
    places = [first_mismatch(alone.tokens, helped.tokens) for _, alone, helped in pairs]
    odds = [
        pair.log_odds([*text, *alone.tokens[:place]], alone.tokens[place], helped.tokens[place])
        for (text, alone, helped), place in zip(pairs, places, strict=True)
        if greedy and place is not None
    ]
    rates = [(len(a.tokens) / a.seconds, len(h.tokens) / h.seconds) for _, a, h in pairs]
    return DraftRun(
        temperature=temperature,
        alone=statistics.median(a for a, _ in rates),
        assisted=statistics.median(h for _, h in rates),
        speedup=statistics.median(h / a for a, h in rates),
        acceptance=drafted.acceptance,
        drafts=len(drafted.taken),
        predicted=predicted_speedup(drafted.acceptance, length, cost),
        equal=places.count(None) if greedy else None,
        prompts=len(texts),
        parted_by=max(odds, default=None),
    )


def _check_vocabularies(model: str, draft: str, own: Any, other: Any) -> None:
    ours, theirs = own.get_vocab(), other.get_vocab()
    if ours == theirs:
        return
    if len(ours) != len(theirs):
        what = f"{len(theirs):,} tokens, and {model} has {len(ours):,}"
    else:
        token = next(t for t, place in ours.items() if theirs.get(t) != place)
        what = f"another id for {token!r:.60} than {model}"
    raise ModelError(
        f"--draft {draft}: its tokenizer has {what}; a draft must write the model's own tokens: "
        "take a pruned copy of the model"
    )
