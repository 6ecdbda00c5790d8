"""Errors are one line, of a few kinds, with the nearest known name where one was meant."""

from __future__ import annotations

import pytest

import depthprune
from depthprune import errors


def test_a_message_is_one_line_whatever_it_was_made_of() -> None:
    assert str(errors.ModelError("first\n  second\t third ")) == "first second third"


def test_a_message_moves_no_cursor_and_changes_no_colour() -> None:
    message = str(errors.CheckpointError("tensor \x1b]0;owned\x07\x1b[2J\u202egpj.\ud800\x9b1m"))
    assert message == r"tensor \x1b]0;owned\x07\x1b[2J\u202egpj.\ud800\x9b1m"
    assert message.isprintable()


def test_a_message_is_cut_however_long_the_name_in_it() -> None:
    message = str(errors.ModelError("a.safetensors: " + "x" * 10_000_000 + "; download it again"))
    assert len(message) <= 2_000
    assert message.startswith("a.safetensors: x")
    assert message.endswith("x; download it again")


@pytest.mark.parametrize(
    "kind", [n for n in depthprune.__all__ if n.endswith("Error") and n != "DepthpruneError"]
)
def test_every_kind_is_a_depthprune_error(kind: str) -> None:
    assert issubclass(getattr(errors, kind), errors.DepthpruneError)


def test_a_broken_checkpoint_is_a_model_that_cannot_be_loaded() -> None:
    assert issubclass(errors.CheckpointError, errors.ModelError)


def test_a_near_miss_is_answered_with_the_name_that_was_meant() -> None:
    message = str(errors.unknown("search", "one-shoot", ["greedy", "one-shot"]))
    assert message == "unknown search 'one-shoot'; did you mean 'one-shot'?"


def test_a_far_miss_is_answered_with_all_names_in_order() -> None:
    message = str(errors.unknown("search", "zzz", ["greedy", "beam"]))
    assert message == "unknown search 'zzz'; known: beam, greedy"


def test_an_unknown_name_is_wrong_usage() -> None:
    assert type(errors.unknown("search", "x", ["y"])) is errors.UsageError
