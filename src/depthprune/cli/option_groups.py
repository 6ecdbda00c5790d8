"""Flags that go together, each group declared once for all verbs that take it.

A group is a dataclass whose fields are flags of `options.py`, each with a default, and whose
methods read their values. A verb under `expand_groups` takes groups as keyword arguments, and typer
sees their fields in their place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

import typer

from depthprune.cli import options
from depthprune.cli.values import parse_share, parse_size
from depthprune.engine import Engine
from depthprune.errors import UsageError
from depthprune.evaluator.racing.settings import Racing
from depthprune.pruning.target.options import DEFAULT_SPLIT


def expand_groups(verb: Callable[..., None]) -> Callable[..., None]:
    """Take each argument of a verb that is a group apart into its flags.

    Args:
        verb: A function for `typer.Typer.command`.
    """
    # `get_type_hints` of Python 3.10 hides the annotation of a flag whose default is None in an
    # Optional, where typer does not look.
    parameters = inspect.signature(verb, eval_str=True).parameters
    groups: dict[str, Any] = {
        name: parameter.annotation
        for name, parameter in parameters.items()
        if is_dataclass(parameter.annotation)
    }
    flags: list[inspect.Parameter] = []
    for name, parameter in parameters.items():
        if name in groups:
            flags += _flags(parameter.annotation)
        else:
            flags.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(verb)
    def expanded(**given: Any) -> None:
        taken: dict[str, Any] = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        verb(**given, **taken)

    # Typer reads both.
    expanded.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
    expanded.__annotations__ = {flag.name: flag.annotation for flag in flags}
    return expanded


def _flags(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(field.name, kind, default=field.default, annotation=hints[field.name])
        for field in fields(group)
    ]


@dataclass(frozen=True)
class ModelOptions:
    """How a model is run."""

    dtype: options.Dtype = "auto"
    device: options.Device = "auto"
    stream: options.Stream = False
    device_map: options.DeviceMap = None
    memory: options.Memory = None
    memo: options.MemoPlace = None

    def keywords(self) -> dict[str, Any]:
        """As the jobs take them.

        Raises:
            UsageError: If `--memory` is no size.
        """
        return {**vars(self), "memory": parse_size(self.memory, "--memory")}


@dataclass(frozen=True)
class SourceOptions:
    """Which files of a model are read, and what of them is trusted."""

    revision: options.Revision = None
    trust_remote_code: options.RemoteCode = False
    allow_pickle: options.Pickle = False


@dataclass(frozen=True)
class EngineOptions:
    """Which workers compute losses."""

    engine: options.EngineName = None
    workers: options.Workers = None
    gpus_per_worker: options.GpusPerWorker = None
    cpus_per_worker: options.CpusPerWorker = None

    def parsed(self) -> Engine | None:
        """The engine that `--engine` and the flags beside it ask for; None without it.

        Raises:
            UsageError: If they are wrong, or given without it.
        """
        beside = {
            "--workers": self.workers,
            "--gpus-per-worker": self.gpus_per_worker,
            "--cpus-per-worker": self.cpus_per_worker,
        }
        if self.engine is None:
            for flag, value in beside.items():
                if value is not None:
                    raise UsageError(
                        f"{flag}: means nothing without --engine ray; add it, or drop it"
                    )
            return None
        from depthprune.engine.cluster import parse_engine

        return parse_engine(self.engine, self.workers, self.gpus_per_worker, self.cpus_per_worker)


@dataclass(frozen=True)
class RacingOptions:
    """How sure a search is of its choices."""

    exact: options.Exact = False
    delta: options.Delta = Racing.delta
    tolerance: options.Tolerance = "0.1%"

    def parsed(self) -> Racing | None:
        """The race; None where every set is scored on every window.

        Raises:
            UsageError: If `--delta` or `--tolerance` is out of bounds.
        """
        tie = parse_share(self.tolerance, "--tolerance")
        return None if self.exact else Racing(self.delta, tie or 0.0)

    def refuse_idle(self, context: typer.Context, *, recovering: bool) -> None:
        """Refuse `--delta` and `--tolerance`, if they were given, where nothing races.

        Args:
            context: Which knows what was given and what is a default.
            recovering: Whether `--search-with-recovery` was given.

        Raises:
            UsageError: Naming the first.
        """
        if not self.exact and not recovering:
            return
        where = "--exact" if self.exact else "--search-with-recovery"
        for name in ("delta", "tolerance"):
            if options.was_given(context, name):
                raise UsageError(
                    f"--{name}: means nothing with {where}, which never races; drop it"
                )


@dataclass(frozen=True)
class TargetOptions:
    """What the calibration is chosen for."""

    target: options.For = None
    target_split: options.ForSplit = DEFAULT_SPLIT
    target_objective: options.ForObjective = None
    portfolio: options.Portfolio = None
    keep_general: options.KeepGeneral = None

    def keywords(self) -> dict[str, Any]:
        """As `dp.prune` takes them.

        Raises:
            UsageError: If `--keep-general` is no share.
        """
        share = parse_share(self.keep_general, "--keep-general")
        return {**vars(self), "target": self.target or (), "keep_general": share}


@dataclass(frozen=True)
class SpeedOptions:
    """Whether the speed is measured, and how long that may take."""

    bench: options.Bench = None
    bench_seconds: options.BenchSeconds = 60


@dataclass(frozen=True)
class ResultOptions:
    """How a verb shows what it found; `--debug` is read before any verb runs."""

    json: options.Json = False
    debug: options.Debug = False
