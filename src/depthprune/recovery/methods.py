"""The ways to recover, by the names that `--recover` takes, and what each can be told."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, cast

from depthprune.errors import UsageError
from depthprune.registry import Registry, build, spell


@dataclass(frozen=True)
class Linear:
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
        if self.fit not in ("inputs", "outputs"):
            raise _wrong(self.name, "fit", "inputs or outputs", self.fit)

    @property
    def line(self) -> str:
        """The text by which it is asked for."""
        return spell(self.name, self)

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
class Magnitude:
    """The state before each gap scaled to the size of the state behind it: see `rescale`."""

    name: ClassVar[Literal["magnitude"]] = "magnitude"

    @property
    def line(self) -> str:
        """The text by which it is asked for."""
        return spell(self.name, self)


@dataclass(frozen=True)
class LoRA:
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
        every: Steps from one judgement, and checkpoint, to the next.
        patience: Judgements without a new best after which training ends.
        judge: Windows of each source that choose the best step, and as many that are shown.
        start: What is trained on from: the linear recovery, or the plain pruned model.
        checkpointing: Whether each block is run again on the way back and not remembered; `auto`
            does so except on a processor.
        seed: Of the adapters' beginning and the order of the windows.
    """

    rank: int = 16
    alpha: float = 32.0
    steps: int = 200
    lr: float = 5e-4
    batch: int = 8
    nll: float = 0.0
    every: int = 20
    patience: int = 4
    judge: int = 8
    start: Literal["linear", "plain"] = "linear"
    checkpointing: Literal["auto", "on", "off"] = "auto"
    seed: int = 0

    name: ClassVar[Literal["lora"]] = "lora"

    def __post_init__(self) -> None:
        for field in ("rank", "steps", "batch", "every", "patience", "judge"):
            if getattr(self, field) < 1:
                raise _wrong(self.name, field, "1 or more", getattr(self, field))
        for field in ("alpha", "lr"):
            value = getattr(self, field)
            if not (value > 0 and math.isfinite(value)):
                raise _wrong(self.name, field, "a number above 0", value)
        if self.lr > 1:
            raise _wrong(self.name, "lr", "at most 1, such as 5e-4", self.lr)
        if not 0 <= self.nll <= 1:
            raise _wrong(self.name, "nll", "a share from 0 to 1", self.nll)
        if self.seed < 0:
            raise _wrong(self.name, "seed", "0 or more", self.seed)
        for field, known in (
            ("start", ("linear", "plain")),
            ("checkpointing", ("auto", "on", "off")),
        ):
            if getattr(self, field) not in known:
                raise _wrong(self.name, field, " or ".join(known), getattr(self, field))

    @property
    def line(self) -> str:
        """The text by which it is asked for."""
        return spell(self.name, self)


Method: TypeAlias = "Linear | Magnitude | LoRA"

# Recovery is part of the contract of `prune` and takes no plug-ins, so no group is named.
METHODS: Registry[Callable[..., Any]] = Registry(
    "--recover method", "", {"linear": Linear, "magnitude": Magnitude, "lora": LoRA}
)


def parse_method(text: str) -> Method:
    """What a text such as `linear` or `lora:rank=8,steps=100` asks for.

    Raises:
        UsageError: If the method is unknown, or a parameter is, or its value makes no sense.
    """
    return cast(Method, build(METHODS, text, ("name",)))


def _wrong(method: str, field: str, expected: str, got: object) -> UsageError:
    return UsageError(f"--recover {method}: {field}: expected {expected}, got {got}")
