"""A verb takes groups of flags, and the command line sees each flag in its place."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from depthprune.cli.option_groups import RacingOptions, expand_groups
from depthprune.errors import UsageError
from depthprune.evaluator.racing.settings import Racing


@dataclass(frozen=True)
class _Size:
    width: Annotated[int, typer.Option(help="Across.")] = 3
    deep: Annotated[bool, typer.Option("--deep", help="Whether.")] = False


def _app(seen: list[Any]) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    @expand_groups
    def verb(
        *, name: Annotated[str, typer.Argument()], size: _Size, last: Annotated[str, typer.Option()]
    ) -> None:
        """Do it."""
        seen.append((name, size, last))

    return app


def test_a_verb_is_given_a_group_made_of_its_flags() -> None:
    seen: list[Any] = []
    words = ["a", "--deep", "--last", "b", "--width", "5"]
    assert CliRunner().invoke(_app(seen), words).exit_code == 0
    assert seen == [("a", _Size(5, deep=True), "b")]


def test_what_is_not_given_has_the_group_s_default() -> None:
    seen: list[Any] = []
    assert CliRunner().invoke(_app(seen), ["a", "--last", "b"]).exit_code == 0
    assert seen == [("a", _Size(), "b")]


def test_the_flags_of_a_group_stand_where_it_stands() -> None:
    @expand_groups
    def verb(*, first: int = 0, size: _Size, last: int = 0) -> None:
        pass

    assert list(inspect.signature(verb).parameters) == ["first", "width", "deep", "last"]


def test_a_flag_in_two_groups_is_refused_when_the_verb_is_made() -> None:
    def verb(*, size: _Size, other: _Size) -> None:
        pass

    with pytest.raises(ValueError, match="duplicate parameter name"):
        expand_groups(verb)


def test_racing_is_off_with_exact() -> None:
    assert RacingOptions(delta=0.02, tolerance="1%").parsed() == Racing(0.02, 0.01)
    assert RacingOptions(exact=True).parsed() is None
    with pytest.raises(UsageError, match="--delta"):
        RacingOptions(delta=2).parsed()
