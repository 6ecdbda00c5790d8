"""The manifest `depthprune.json`: what was done to a checkpoint, in a form that can be repeated.

It is written beside every checkpoint, read back by the report, and versioned by `schema`. Fields
that a verb does not know (`apply` measures no losses) are null. Losses are in nats a token unless
the objective says otherwise; standard errors are between windows, and paired with the dense model
where a difference is meant.
"""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from depthprune.errors import CheckpointError
from depthprune.untrusted import parse_json, read_text


class _Record(BaseModel):
    """Made field by field, or of an object that has attributes of the same names."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, ser_json_inf_nan="strings", from_attributes=True
    )


class Estimate(_Record):
    """A mean loss over windows, with the standard error between windows."""

    loss: float
    stderr: float
    windows: int
    tokens: int = Field(description="Scored tokens, summed over the windows.")
    perplexity: float | None = Field(
        default=None, description="exp(loss), where the objective has one."
    )


class SourceModel(_Record):
    """The model that was pruned."""

    name: str = Field(description="What the user wrote: a folder, a hub id, a file, or `demo`.")
    kind: Literal["folder", "hub", "gguf"]
    model_type: str
    blocks: int
    revision: str | None = None
    fingerprint: str | None = Field(
        default=None, description="Of the weights' headers and sampled bytes."
    )


class WindowRecord(_Record):
    """Where one window was cut: token positions within the source's token sequence."""

    document: str
    start: int
    length: int


class CalibrationRecord(_Record):
    """One source of a calibration and what was drawn from it."""

    spec: str = Field(description="The spec in one line; a key that it lacks has its default.")
    fingerprint: str = Field(description="Of the tokens of its windows and how they are scored.")
    weight: float = Field(description="Share of the mixture, the shares summing to 1.")
    tokens: int
    bos: bool | None = Field(
        default=None, description="Whether every window begins with BOS, as the model's tokenizer "
        "puts it.",
    )  # fmt: skip
    windows: list[WindowRecord]
    dimensions: dict[str, JsonValue] | None = Field(
        default=None, description="Every key of the spec with its value, as a YAML file takes it."
    )
    reduction: str | None = Field(
        default=None, description="How windows make one loss: token, window or worst-domain."
    )
    domains: dict[str, int] | None = Field(default=None, description="Windows of each domain.")
    repeats: int | None = Field(
        default=None, description="Documents left out because they repeat an earlier one."
    )
    overlap: float | None = Field(
        default=None, description="Share of the windows that overlap with the files of against=."
    )


class BlockScore(_Record):
    """The loss of the model with one block removed."""

    block: int
    loss: float
    stderr: float
    increase: float = Field(description="Loss minus the dense model's, on the same windows.")
    increase_stderr: float
    windows: int | None = Field(
        default=None, description="On how many windows, where a race did not need all."
    )


class Step(_Record):
    """One step of a search: the best set so far against what was spent."""

    evaluations: float
    block_tokens: int
    removed: list[int]
    loss: float


class PathPoint(_Record):
    """One size on a search's nested path of removed sets, judged on held-out windows."""

    k: int
    removed: list[int]
    loss: float
    held_out: float | None = None
    held_out_stderr: float | None = None


class CostRecord(_Record):
    """What the search spent: counted, not estimated, except for `seconds`."""

    evaluations: float = Field(
        description="Removed sets scored, one on half of the windows counting half; the dense "
        "model apart."
    )
    block_tokens: int
    head_tokens: int
    plain_block_tokens: int = Field(
        description="What plain forwards for the sets and windows computed would cost."
    )
    recalled: int = Field(default=0, description="Losses of a set on a window that a memo gave.")
    seconds: float


class RacingRecord(_Record):
    """How sure the search was of each choice; null where every set was scored on every window."""

    delta: float = Field(description="Chance that an ask drops a set that it should have kept.")
    tolerance: float = Field(description="Losses within this share of each other are ties.")


class RoundingRecord(_Record):
    """What rounding alone does to losses, measured on a few windows before the search."""

    share: float = Field(
        description="By how much it changes a difference of two sets' losses on the whole "
        "calibration, as a share of the loss. Differences below it are ties."
    )
    window: float = Field(description="By how much it changed one window's loss, at most.")
    against: str = Field(description="What it was compared with.")
    windows: int = Field(description="How many were tried.")


class SearchRecord(_Record):
    """The search and how it went. With racing, the losses of its trace are estimates."""

    name: str
    seed: int
    k: int
    protect: list[int]
    max_increase: float | None = None
    budget: str | None = Field(
        default=None, description="What the search was allowed to spend, as --budget reads it."
    )
    racing: RacingRecord | None = None
    rounding: RoundingRecord | None = Field(
        default=None, description="Null where it was not measured, as of a streamed model."
    )
    trace: list[Step]
    cost: CostRecord
    not_finite: list[list[int]] = Field(description="Sets whose loss was NaN or infinite.")


class DrawRecord(_Record):
    """What the same search chose on another draw of the calibration."""

    repetition: int = Field(description="By how much every source's seed was raised.")
    removed: list[int]
    loss: float = Field(description="Of this set on this draw.")
    loss_of_first: float = Field(description="Of the checkpoint's set on this draw.")
    jaccard: float = Field(description="Overlap of the two sets, from 0 to 1.")


class HeldOut(_Record):
    """Losses before and after on windows that no search saw."""

    calibration: str
    objective: str | None = Field(
        default=None,
        description="Where it is not the manifest's; of accuracy the loss is the share of wrong "
        "answers.",
    )
    dense: Estimate
    pruned: Estimate
    increase: float
    increase_stderr: float
    recovered: Estimate | None = Field(
        default=None, description="After recovery, if there was any."
    )
    recovered_increase: float | None = Field(
        default=None, description="Of the recovered model over the dense one."
    )
    recovered_increase_stderr: float | None = None
    recovered_change: float | None = Field(
        default=None, description="Of the recovered model over the unrecovered one."
    )
    recovered_change_stderr: float | None = None


class RecoveredRun(_Record):
    """One run of removed blocks, and what was written into the block before it."""

    blocks: list[int]
    into: int | None = Field(description="The kept block; null for a run at the very bottom.")
    why_not: str | None = Field(default=None, description="Why nothing was changed.")
    ridge: float | None = Field(
        default=None, description="As a share of the mean square of what was mapped."
    )
    strength: float = Field(description="How much of the fitted change was used, 0 to 1.")
    tokens: int = Field(description="That were fitted.")
    apart: int = Field(description="Tokens left out for massive activations.")
    before: float | None = Field(
        default=None,
        description="Root mean square, an element, of what the state behind the run lacked, on "
        "windows that were not fitted.",
    )
    after: float | None = Field(default=None, description="The same with the change.")
    rank: int | None = Field(
        default=None, description="Directions of the width that the fitted tokens span."
    )
    factor: float | None = Field(
        default=None, description="By which all below the run was multiplied."
    )


class RefittedLayer(_Record):
    """One linear layer of a kept block, refitted on what the pruned model feeds in."""

    block: int
    layer: str = Field(description="Name of the module in the block.")
    writes: bool = Field(
        description="Whether it was fitted to what the state behind the block lacked; otherwise to "
        "what the layer gives in the whole model."
    )
    ridge: float | None = Field(
        default=None, description="As a share of the mean square of its inputs."
    )
    strength: float = Field(description="How much of the fitted change was used, 0 to 1.")
    tokens: int = Field(description="That were fitted.")
    before: float = Field(
        description="Root mean square, an element, of what was lacking, on windows that were not "
        "fitted."
    )
    after: float = Field(description="The same with the change.")
    rank: int = Field(description="Directions of its inputs that the fitted tokens span.")


class TrainingPoint(_Record):
    """What training was worth after some steps, in nats a token."""

    step: int
    trained: float | None = Field(
        default=None, description="Mean loss of the steps since the last point."
    )
    choosing: float = Field(description="On windows that choose the best step.")
    held_out: float = Field(description="The same on held-out windows, which decide nothing.")
    held_out_nll: float = Field(description="The text's own loss on those.")


class TrainingRecord(_Record):
    """How adapters or the last blocks were trained to give what the dense model gives."""

    settings: str = Field(description="As --recover takes them; what is not named is the default.")
    parameters: int = Field(description="Numbers trained; adapters', before they were merged.")
    tokens: int = Field(description="Tokens trained on, each as often as it was.")
    steps: int
    best: int = Field(description="The step that was merged; 0 if none was better than none.")
    stopped: bool = Field(description="Whether training ended before its last step.")
    curve: list[TrainingPoint]


class RecoveryRecord(_Record):
    """What was done to mend what removal broke."""

    method: Literal["linear", "magnitude", "lora", "last"]
    in_search: bool = Field(default=False, description="Whether the search scored recovered sets.")
    calibration: list[CalibrationRecord]
    settings: str | None = Field(
        default=None, description="As --recover takes them; what is not named is the default."
    )
    runs: list[RecoveredRun]
    refits: list[RefittedLayer] = Field(
        default=[], description="Of the blocks before and behind the gaps, in turn."
    )
    training: TrainingRecord | None = None
    further: list[HeldOut] = Field(description="Losses on other text that was named for it.")
    choices: list[HeldOut] = Field(
        default=[],
        description="Accuracy on the items with options among both: the calibration's held-out "
        "ones and the further ones.",
    )
    warnings: list[str] = Field(description="Texts on which it made the model worse.")


class Spread(_Record):
    """A median and the lowest and highest of its repeats."""

    median: float
    low: float
    high: float


class Speed(_Record):
    """Tokens a second, the two models interleaved."""

    prefill_before: Spread
    prefill_after: Spread
    decode_before: Spread
    decode_after: Spread
    prompt_tokens: int
    new_tokens: int
    repeats: int


class Size(_Record):
    """Parameters and bytes on disk, before and after. Bytes are of the files with the weights."""

    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    bytes_source: int | None = Field(
        default=None, description="The file the model came from, if a GGUF."
    )


class ParityRecord(_Record):
    """How the reloaded checkpoint compared with the masked model."""

    dtype: str
    tokens: int
    logits_scale: float
    logits_difference: float = Field(description="Largest absolute difference.")
    bitwise: bool
    float32_difference: float | None = Field(
        default=None,
        description="Relative to the scale, when the first comparison was not bitwise.",
    )
    float64_difference: float | None = Field(
        default=None,
        description="Relative to the scale, when float32 could not decide either.",
    )
    generated_tokens: int


class Sample(_Record):
    """A sampled continuation of one prompt from both models."""

    prompt: str
    before: str
    after: str
    seed: int
    temperature: float


class AnswerShare(_Record):
    """How one model answered."""

    right: float = Field(description="Share of the problems, from 0 to 1.")
    stderr: float | None = Field(description="Between problems; null of a single one.")
    unanswered: int = Field(description="Problems in whose answer there was nothing to compare.")


class AnswerRecord(_Record):
    """Problems of `--answers`, which the models answered greedily, in their own words."""

    calibration: str = Field(description="The spec that they were drawn by.")
    problems: int
    new_tokens: int = Field(description="That an answer may have.")
    dense: AnswerShare
    pruned: AnswerShare
    recovered: AnswerShare | None = None
    change: float = Field(
        description="Share right of the checkpoint as it was written, minus the whole model's."
    )
    change_stderr: float | None = Field(description="Of the paired difference, between problems.")
    collapsed: bool = Field(
        description="Whether the checkpoint answers less than half of what the whole model does, "
        "and the difference is above two standard errors."
    )

    @property
    def kept(self) -> AnswerShare:
        """Of the checkpoint as it was written."""
        return self.pruned if self.recovered is None else self.recovered


class Versions(_Record):
    """What computed the figures."""

    depthprune: str
    python: str
    platform: str
    packages: dict[str, str]


class TargetGoal(_Record):
    """One `--for`, and how it was split."""

    spec: str
    kind: Literal["choices", "answers", "chats", "text"]
    weight: float = Field(description="Share among the goals, the shares summing to 1.")
    counted: Literal["documents", "passages"] = Field(
        description="What was split: a text of few documents is cut into passages."
    )
    documents: list[int] = Field(description="To calibrate on, to choose by, to judge by.")
    windows: list[int] = Field(description="Scored to choose, and to judge.")
    tokens: list[int] = Field(description="Of those windows.")


class TargetCalibration(_Record):
    """One calibration that was tried."""

    name: str
    specs: list[str]
    objective: str
    tokens: int
    fingerprint: str


class TargetSet(_Record):
    """One removed set that was looked at."""

    removed: list[int]
    calibration: str = Field(description="On which it was found, by its name.")
    search: str = Field(description="By which it was found, or `swap`.")
    share: float = Field(description="Of that calibration's windows that were searched on.")
    loss: float = Field(description="On the part of the target that chooses.")
    stderr: float
    windows: int = Field(description="It dropped out of the race after so many.")
    general: float = Field(description="Loss on held-out default text, nats a token.")
    tied: bool = Field(description="Whether it cannot be told apart from the best.")
    refused: bool = Field(description="Whether --keep-general or --max-increase refuses it.")


class TargetRound(_Record):
    """What one round of the spending tried."""

    name: str
    tried: int
    leader: list[int]
    loss: float = Field(description="The leader's, on the target's first windows.")
    evaluations: float = Field(description="All that was spent until then.")
    block_tokens: int


class TargetJudged(_Record):
    """A set on the part of the target that decided nothing."""

    what: Literal["chosen", "default", "task", "whole"] = Field(
        description="The set that was chosen, what the default calibration and the task itself "
        "give by the same search, and the whole model."
    )
    removed: list[int]
    loss: Estimate
    accuracy: float | None = Field(
        default=None, description="Share of items answered right, where the target has items."
    )
    accuracy_stderr: float | None = None
    above: float = Field(description="Its loss minus that of the chosen set, window by window.")
    above_stderr: float
    low: float = Field(description="Of a 95% interval of that difference.")
    high: float


class TargetRecord(_Record):
    """How the calibration was chosen by what keeps a task."""

    goals: list[TargetGoal]
    split: str = Field(description="Shares of the parts in percent, as --for-split takes them.")
    seed: int
    objective: str = Field(description="What is measured on the target.")
    calibrations: list[TargetCalibration]
    left_out: dict[str, str] = Field(description="Calibrations that gave no set, with why.")
    sets: list[TargetSet]
    rounds: list[TargetRound]
    chosen: str = Field(description="The calibration that won, by its name.")
    search: str = Field(description="By which its set was found, or `swap`.")
    delta: float = Field(description="Chance that the choice dropped the best set.")
    keep_general: float | None = None
    budget: str
    whole: Estimate = Field(description="The whole model on the part that chooses.")
    choosing: Estimate = Field(description="The chosen set on the part that chooses.")
    judged: list[TargetJudged]


class DraftPoint(_Record):
    """What one size is worth as a draft of the original."""

    k: int
    removed: list[int]
    acceptance: float = Field(
        description="The chance that a token of the draft is accepted, on held-out windows."
    )
    cost: float = Field(description="Of a token of the draft, in tokens of the original.")
    length: int = Field(description="Tokens of a draft for which it is fastest.")
    speedup: float = Field(description="Expected, of the original's decoding.")


class DraftRecord(_Record):
    """Which size makes the best draft of the original."""

    temperature: float = Field(description="Of the sampling; 0 is greedy.")
    measured: bool = Field(description="Whether decoding was timed; else --cost-ratio was given.")
    chosen: int = Field(description="The k that was taken.")
    points: list[DraftPoint] = Field(description="By size.")

    @property
    def best(self) -> DraftPoint:
        """The chosen size."""
        return next(point for point in self.points if point.k == self.chosen)


class Manifest(_Record):
    """The whole of `depthprune.json`."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    created: str = Field(description="UTC, ISO 8601.")
    command: str | None = Field(default=None, description="The command line that makes this again.")
    model: SourceModel
    removed: list[int] = Field(description="Original block numbers, sorted.")
    kept: list[int]
    dtype: str = Field(
        description="Of the tensors written; the most common one, where they differ."
    )
    measured_dtype: str | None = Field(
        default=None, description="That the losses were computed in."
    )
    measured_dtype_reason: str | None = Field(
        default=None, description="What was measured to choose it; null where it was given."
    )
    device: str | None = None
    calibration: list[CalibrationRecord] | None = None
    objective: str | None = None
    search: SearchRecord | None = None
    dense: Estimate | None = Field(default=None, description="The dense model on the calibration.")
    pruned: Estimate | None = Field(default=None, description="The removed set on the calibration.")
    blocks: list[BlockScore] | None = Field(default=None, description="Each block removed alone.")
    path: list[PathPoint] | None = None
    draws: list[DrawRecord] | None = Field(
        default=None, description="The same search on further draws."
    )
    held_out: list[HeldOut] | None = None
    target: TargetRecord | None = Field(
        default=None, description="How the calibration was chosen, where --for asked for it."
    )
    draft: DraftRecord | None = Field(
        default=None, description="What it is worth as a draft, where --as-draft asked for it."
    )
    recovery: RecoveryRecord | None = None
    size: Size | None = None
    speed: Speed | None = None
    parity: ParityRecord | None = None
    sample: Sample | None = None
    answers: list[AnswerRecord] | None = Field(
        default=None, description="What the models answered in words, where --answers asked."
    )
    versions: Versions
    files: list[str] = Field(description="Every file depthprune wrote beside the manifest.")

    model_config = ConfigDict(
        extra="forbid", frozen=True, ser_json_inf_nan="strings", populate_by_name=True
    )

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a manifest.

        Raises:
            CheckpointError: If it cannot be read, or is no manifest, saying where.
        """
        text = read_text(path)
        parse_json(text, str(path))
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise CheckpointError(
                f"{path}: {where}: {first['msg']}; expected a manifest of schema 1; prune the "
                "original again"
            ) from error

    def text(self) -> str:
        """The manifest as indented JSON."""
        return self.model_dump_json(indent=2, by_alias=True) + "\n"

    def write(self, path: Path) -> None:
        """Write the manifest as indented UTF-8 JSON."""
        path.write_text(self.text(), encoding="utf-8")


_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "gguf", "peft")


def versions() -> Versions:
    """The versions of this package, Python and the libraries that compute, without importing them.

    Where this package is run from a source tree that was never installed, its version is
    `"unknown"`.
    """
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    try:
        own = metadata.version("depthprune")
    except metadata.PackageNotFoundError:
        own = "unknown"
    return Versions(
        depthprune=own,
        python=platform.python_version(),
        platform=platform.platform(),
        packages=found,
    )
