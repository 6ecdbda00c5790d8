"""Everything that `prune` is asked for, and what of it is wrong by itself; torch is not loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from depthprune.bounds import MOST_SEED, whole
from depthprune.engine import Engine, as_engine
from depthprune.errors import UsageError
from depthprune.evaluator.racing.settings import Racing
from depthprune.outputs import OutputTarget, as_target
from depthprune.progress import SILENT, Progress
from depthprune.pruning.drafting.draft_job import DraftJob
from depthprune.pruning.python_call import python_call
from depthprune.pruning.session import Loading, several
from depthprune.pruning.target.options import DEFAULT_SPLIT, TargetJob
from depthprune.searches import Budget

PROMPT = "The most important thing about a good library is"
BENCH_SECONDS = 60.0
_RACING = Racing()


@dataclass(frozen=True)
class PruneJob:
    """Everything that `prune` was asked for."""

    loading: Loading
    out: OutputTarget | None
    k: int | None
    max_increase: float | None
    specs: tuple[str, ...]
    objective: str
    search: str
    budget: str | None
    seed: int
    protect: str
    prompt: str
    bench: bool
    memory: int | None
    memo: str | Path | None
    racing: Racing | None
    draws: int
    overwrite: bool
    command: str
    progress: Progress
    recover: str | None = None
    also: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    answer_tokens: int | None = None
    search_with_recovery: bool = False
    bench_seconds: float = BENCH_SECONDS
    wanted: TargetJob | None = None
    engine: Engine | None = None
    draft: DraftJob | None = None
    link: bool = False

    @property
    def target(self) -> OutputTarget:
        """What `-o` names.

        Raises:
            UsageError: If it names nothing, as in a dry run.
        """
        if self.out is None:
            raise UsageError("-o: names nothing to write")
        return self.out

    @property
    def writes_file(self) -> bool:
        """Whether the output is one file."""
        return self.out is not None and self.out.is_file


def prune_job(
    model: str | Path,
    k: int | None = None,
    *,
    out: str | Path | None,
    calibration: str | Sequence[str] = (),
    max_increase: float | None = None,
    objective: str | None = None,
    search: str = "greedy",
    seed: int = 0,
    budget: str | Budget | None = None,
    protect: str | Sequence[int] = "",
    draws: int = 1,
    racing: Racing | None = _RACING,
    recover: str | None = None,
    also: str | Sequence[str] = (),
    answers: str | Sequence[str] = (),
    answer_tokens: int | None = None,
    search_with_recovery: bool = False,
    target: str | Sequence[str] = (),
    target_split: str = DEFAULT_SPLIT,
    target_objective: str | None = None,
    portfolio: str | Path | None = None,
    keep_general: float | None = None,
    as_draft: bool = False,
    cost_ratio: float | None = None,
    prompt: str = PROMPT,
    bench: bool | None = None,
    bench_seconds: float = BENCH_SECONDS,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    stream: bool = False,
    memory: int | None = None,
    memo: str | Path | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    overwrite: bool = False,
    link: bool = False,
    engine: str | Engine | None = None,
    command: str | None = None,
    progress: Progress = SILENT,
) -> PruneJob:
    """All that `prune` is asked for, with what is wrong by itself refused.

    Args:
        model: A folder, a hub id, a `.gguf` file, or `demo`.
        k: How many blocks go; or else `max_increase`.
        out: The folder, or the `.gguf` file, that is written.
        calibration: Specs such as `text:wiki.txt,windows=64`; several are mixed. By default prose
            and code of the standard library.
        max_increase: The most blocks whose held-out loss grows by no more than this share.
        objective: Such as `nll`, `kl:top=64` or `nll:0.5+option-ce:0.5`; by default `nll`, and
            `acceptance` with `as_draft`.
        search: Such as `greedy` or `beam:width=8`.
        seed: Of the search; the calibration's draw has its own.
        budget: What the search may spend, as text of `--budget` such as `200`, or a `dp.Budget`.
        protect: Blocks that stay, `"0,29"` or numbers.
        draws: On how many draws of the calibration the search is run.
        racing: How sure it is of each choice; None scores every set on every window.
        recover: `linear`, `magnitude`, `lora` or `last`, with settings.
        also: Further texts that recovery is judged on.
        answers: Specs of prompts with answers, which the models answer in words.
        answer_tokens: Tokens that such an answer may have; by default 256.
        search_with_recovery: Score every set as it is after recovery.
        target: What matters: specs of text, prompts with answers, chats or choices. The
            calibration is then chosen by what keeps it, and each of `calibration` is tried too.
        target_split: Percentages of it that may be calibrated on, choose and judge.
        target_objective: What is measured on it, where not what its kind asks for.
        portfolio: A YAML file of the calibrations that are tried.
        keep_general: By what share more than the best set another may lose on the default text.
        as_draft: Choose what makes the best draft of the model, and without `k` its size too.
        cost_ratio: The share of decoding that the blocks take on the machine that the draft is
            for, where it is not to be timed on this one.
        prompt: What both models continue in the report.
        bench: Measure speed before and after; by default unless streamed.
        bench_seconds: How long that may take.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `cuda:1`, …
        device_map: How the model is divided among several devices.
        stream: Read blocks from disk while they run.
        memory: Bytes that hidden states may take.
        memo: Where losses are kept: a path, `off`, or by default the user's cache folder.
        revision: Of a hub id.
        trust_remote_code: Run code that the model's folder brings.
        allow_pickle: Read weights that are pickled.
        overwrite: Replace what `out` holds.
        link: Share what does not change with the original's folder: as reflinks where the file
            system can, else its weight files in which nothing changes as hard links.
        engine: `ray` or `ray://HOST:PORT` to have losses computed by workers of a cluster.
        command: How the manifest says it was made; by default the call of `dp.prune`.
        progress: Where long work shows itself.

    Raises:
        UsageError: If one of these cannot be, or two do not go together.
    """
    k = None if k is None else whole("-k", k)
    seed, draws = whole("--seed", seed), whole("--draws", draws)
    given = dict(locals())
    _check_numbers(max_increase, keep_general, seed, bench_seconds)
    if not prompt.strip():
        raise UsageError("--prompt: expected some words to continue, got none")
    draft = wanted_draft(as_draft, cost_ratio, max_increase, bool(target), search_with_recovery)
    if (k is None) == (max_increase is None) and not (draft and k is None):
        raise UsageError("-k: expected either -k K or --max-increase SHARE, one of them")
    objective = objective or ("acceptance" if draft else "nll")
    stay = protect if isinstance(protect, str) else ",".join(map(str, protect))
    loading = Loading(
        model, dtype, device, revision, trust_remote_code, allow_pickle, stream, device_map
    )
    return PruneJob(
        loading=loading,
        out=None if out is None else as_target(out),
        k=k,
        max_increase=max_increase,
        specs=several(calibration),
        objective=objective,
        search=search,
        budget=None if budget is None else str(budget),
        seed=seed,
        protect=stay,
        prompt=prompt,
        bench=not stream if bench is None else bench,
        memory=memory,
        memo=memo,
        racing=racing,
        draws=draws,
        overwrite=overwrite,
        link=link,
        command=command or python_call("prune", prune_job, given),
        progress=progress,
        recover=recover,
        also=several(also),
        answers=several(answers),
        answer_tokens=answer_tokens,
        search_with_recovery=search_with_recovery,
        bench_seconds=bench_seconds,
        wanted=wanted_target(target, target_split, target_objective, portfolio, keep_general),
        engine=as_engine(engine),
        draft=draft,
    )


def _check_numbers(
    max_increase: float | None, keep_general: float | None, seed: int, bench_seconds: float
) -> None:
    for flag, share in (("--max-increase", max_increase), ("--keep-general", keep_general)):
        if share is not None and not 0 <= share < inf:
            raise UsageError(f"{flag}: expected a share from 0 such as 0.05 (5%), got {share:g}")
    if not 0 <= seed <= MOST_SEED:
        raise UsageError(f"--seed: expected from 0 to {MOST_SEED:,}, got {seed}")
    check_bench_seconds(bench_seconds)


def check_bench_seconds(seconds: float) -> None:
    """Refuse a time for what is measured afterwards that is none.

    Raises:
        UsageError: If it is not from a second to a day.
    """
    if not 1 <= seconds <= 86400:
        raise UsageError(f"--bench-seconds: expected from 1 to 86,400, got {seconds:g}")


def wanted_target(
    target: str | Sequence[str],
    split: str | None,
    objective: str | None,
    portfolio: str | Path | None,
    keep_general: float | None,
) -> TargetJob | None:
    """What `--for` and the flags that go with it ask for; None without it.

    Raises:
        UsageError: If one of those flags is given without it.
    """
    specs = several(target)
    if specs:
        file = None if portfolio is None else str(portfolio)
        return TargetJob(specs, split or DEFAULT_SPLIT, objective, file, keep_general)
    idle = {
        "--for-split": split not in (None, DEFAULT_SPLIT),
        "--for-objective": objective is not None,
        "--portfolio": portfolio is not None,
        "--keep-general": keep_general is not None,
    }
    for flag, given in idle.items():
        if given:
            raise UsageError(f"{flag}: means nothing without --for; name what is to be kept")
    return None


def wanted_draft(
    as_draft: bool,
    cost_ratio: float | None,
    max_increase: float | None,
    targeted: bool,
    search_with_recovery: bool,
) -> DraftJob | None:
    """What `--as-draft` asks for; None without it.

    Raises:
        UsageError: If a flag does not go with it, or is given without it.
    """
    if not as_draft:
        if cost_ratio is not None:
            raise UsageError("--cost-ratio: means nothing without --as-draft; add it, or drop it")
        return None
    for flag, given in {
        "--max-increase": max_increase is not None,
        "--for": targeted,
        "--search-with-recovery": search_with_recovery,
    }.items():
        if given:
            raise UsageError(f"{flag}: chooses by something else than --as-draft; drop one of them")
    if cost_ratio is not None and not 0 < cost_ratio <= 1:
        raise UsageError(f"--cost-ratio: expected a number above 0, at most 1, got {cost_ratio:g}")
    return DraftJob(cost_ratio)
