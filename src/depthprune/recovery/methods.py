"""The ways to recover, by the names that `--recover` takes, and the settings of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, cast

from pydantic import Field

from depthprune.bounds import MOST_SEED, check_bounds
from depthprune.errors import UsageError
from depthprune.registry import Registry, build, spell

_Seed = Annotated[
    int, Field(ge=0, le=MOST_SEED, description=f"a whole number from 0 to {MOST_SEED}")
]


class Spelled:
    """A way to recover that can be written as the text by which it is asked for."""

    name: ClassVar[str]

    @property
    def line(self) -> str:
        """The text by which it is asked for."""
        return spell(self.name, self)


@dataclass(frozen=True)
class Linear(Spelled):
    """Least squares in closed form, into weights that are there: see `recover`.

    Attributes:
        refit: How many kept blocks behind each gap have their linear layers refitted, a number or
            `none`; 0 stands for all of them.
        fit: What the block before a gap is fitted on: what its last projection is given (`inputs`),
            or what it gives (`outputs`: a map of the state, as in ReplaceMe). A mixture of experts
            is always mapped.
    """

    refit: str = "2"
    fit: Literal["inputs", "outputs"] = "inputs"

    name: ClassVar[Literal["linear"]] = "linear"

    def __post_init__(self) -> None:
        if self.refit != "none" and not self.refit.isdecimal():
            raise _wrong(self.name, "refit", "a number of blocks (0 for all) or none", self.refit)
        check_bounds("--recover linear", self)

    def behind(self, blocks: int) -> int:
        """How many kept blocks behind a gap are refitted at most.

        Args:
            blocks: Number of the model's blocks.

        Raises:
            UsageError: If there are not so many.
        """
        if self.refit == "none":
            return 0
        number = int(self.refit)
        if number >= blocks:
            raise _wrong(self.name, "refit", f"below the model's {blocks} blocks", number)
        return number or blocks


@dataclass(frozen=True)
class Magnitude(Spelled):
    """The state before each gap scaled to the size of the state behind it: see `rescale`."""

    name: ClassVar[Literal["magnitude"]] = "magnitude"


@dataclass(frozen=True)
class LoRA(Spelled):
    """Training low-rank adapters to give what the dense model gives: see `distil`.

    Attributes:
        rank: Of the adapters.
        alpha: What an adapter adds is multiplied by alpha ÷ rank.
        steps: Optimizer steps at most.
        lr: Highest learning rate; it rises over the first tenth of the steps and falls to zero
            along a cosine.
        batch: About how many windows a step is made of.
        nll: Share of the text's own negative log-likelihood in the loss, from 0 to 1; the rest is
            the divergence from the dense model.
        own: Share of what is trained on that the dense model writes itself, from 0, below 1.
        every: Steps from one judgement, and checkpoint, to the next.
        patience: Judgements without a new best after which training ends.
        judge: Windows of each source that choose the best step, and as many that are shown.
        start: What is trained on from: the recovery by `linear:refit=none`, or the plain pruned
            model.
        checkpointing: Whether each block is run again on the way back and not remembered; `auto`
            does so except on a processor.
        seed: Of the adapters' beginning, the order of the windows and the text that is written.
    """

    rank: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 32.0
    steps: Annotated[int, Field(ge=1)] = 200
    lr: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 5e-4
    batch: Annotated[int, Field(ge=1)] = 8
    nll: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    own: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    every: Annotated[int, Field(ge=1)] = 20
    patience: Annotated[int, Field(ge=1)] = 4
    judge: Annotated[int, Field(ge=1)] = 8
    start: Literal["linear", "plain"] = "linear"
    checkpointing: Literal["auto", "on", "off"] = "auto"
    seed: _Seed = 0

    name: ClassVar[Literal["lora"]] = "lora"

    def __post_init__(self) -> None:
        check_bounds("--recover lora", self)


@dataclass(frozen=True)
class Last(Spelled):
    """Training the last kept blocks and the head themselves, as `LoRA` trains adapters.

    Attributes:
        blocks: How many kept blocks are trained, from the last one down.
        steps: As of `LoRA`, and so are those that follow.
        lr: Highest learning rate.
        batch: About how many windows a step is made of.
        nll: Share of the text's own negative log-likelihood in the loss.
        own: Share of what is trained on that the dense model writes itself.
        every: Steps from one judgement, and checkpoint, to the next.
        patience: Judgements without a new best after which training ends.
        judge: Windows of each source that choose the best step.
        start: What is trained on from.
        checkpointing: Whether each trained block is run again on the way back.
        seed: Of the order of the windows and the text that is written.
    """

    blocks: Annotated[int, Field(ge=1)] = 3
    steps: Annotated[int, Field(ge=1)] = 200
    lr: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 2e-4
    batch: Annotated[int, Field(ge=1)] = 8
    nll: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    own: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    every: Annotated[int, Field(ge=1)] = 20
    patience: Annotated[int, Field(ge=1)] = 4
    judge: Annotated[int, Field(ge=1)] = 8
    start: Literal["linear", "plain"] = "linear"
    checkpointing: Literal["auto", "on", "off"] = "auto"
    seed: _Seed = 0

    name: ClassVar[Literal["last"]] = "last"

    def __post_init__(self) -> None:
        check_bounds("--recover last", self)


Trained: TypeAlias = "LoRA | Last"
Method: TypeAlias = "Linear | Magnitude | LoRA | Last"

# Recovery is part of the contract of `prune` and takes no plug-ins, so no group is named.
METHODS: Registry[Callable[..., Any]] = Registry(
    "--recover method",
    "",
    {"linear": Linear, "magnitude": Magnitude, "lora": LoRA, "last": Last},
)


def parse_method(text: str) -> Method:
    """What a text such as `linear` or `lora:rank=8,steps=100` asks for.

    Raises:
        UsageError: If the method is unknown, or a parameter is, or its value makes no sense.
    """
    return cast(Method, build(METHODS, text, ("name",)))


def _wrong(method: str, field: str, expected: str, got: object) -> UsageError:
    return UsageError(f"--recover {method}: {field}: expected {expected}, got {got}")
