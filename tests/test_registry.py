"""Other packages add names through entry points, and cannot take one that exists."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest

from depthprune import registry
from depthprune.errors import DepthpruneError, UsageError
from depthprune.registry import Registry, build
from depthprune.searches import search
from depthprune.searches.driver import SEARCHES
from landscapes import additive

GREETING = "hello"


def _install(monkeypatch: pytest.MonkeyPatch, **entries: str) -> None:
    """Pretend that packages declare these names in whatever group is asked for."""

    def entry_points(*, group: str) -> list[EntryPoint]:
        return [EntryPoint(name, value, group) for name, value in entries.items()]

    monkeypatch.setattr(registry, "entry_points", entry_points)


def _registry() -> Registry[str]:
    return Registry("greeting", "depthprune.greetings", {"own": "hi", "also": "hey"})


def test_names_of_this_package_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, zeta="test_registry:GREETING", alpha="test_registry:GREETING")
    assert _registry().names() == ["own", "also", "alpha", "zeta"]


def test_a_plug_in_adds_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, new="test_registry:GREETING")
    assert _registry().get("new") == "hello"
    assert _registry().describe(str.upper) == {"own": "HI", "also": "HEY", "new": "HELLO"}


def test_only_the_registry_s_own_group_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[str] = []
    monkeypatch.setattr(registry, "entry_points", lambda *, group: groups.append(group) or [])
    _registry().names()
    assert groups == ["depthprune.greetings"]


def test_a_plug_in_is_not_imported_until_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, broken="depthprune_no_such_module:X")
    assert "broken" in _registry().names()
    assert _registry().get("own") == "hi"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("depthprune_no_such_module:X", "ModuleNotFoundError"),
        ("test_registry:NO_SUCH_NAME", "AttributeError"),
    ],
)
def test_a_plug_in_that_fails_to_load_is_refused_in_one_line(
    value: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(monkeypatch, broken=value)
    with pytest.raises(UsageError) as caught:
        _registry().get("broken")
    message = str(caught.value)
    assert message.startswith(f"greeting 'broken': its plug-in {value} failed to load ({why}")
    assert message.endswith("repair or remove that package")
    assert "\n" not in message


def test_a_plug_in_may_not_take_a_name_of_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, own="test_registry:GREETING")
    with pytest.raises(UsageError, match="names one that exists already; remove that package"):
        _registry().names()


def test_two_plug_ins_may_not_take_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = [EntryPoint("new", f"test_registry:{name}", "g") for name in ("A", "B")]
    monkeypatch.setattr(registry, "entry_points", lambda *, group: twice)
    with pytest.raises(
        UsageError, match="'new': the plug-in test_registry:B names one that exists"
    ):
        _registry().names()


def test_an_unknown_name_is_refused_with_the_plug_ins_among_the_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _install(monkeypatch, novel="test_registry:GREETING")
    with pytest.raises(UsageError, match="unknown greeting 'nowel'; did you mean 'novel'"):
        _registry().get("nowel")


class LastOne:
    """A search as another package would write it."""

    name = "last-one"
    summary = "the last block that may go"
    grows = False

    def plan(self, space, rng):
        yield from ()
        return space.free[-space.k :]


def test_a_search_from_another_package_is_run_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, **{"last-one": "test_registry:LastOne"})
    monkeypatch.setattr(SEARCHES, "_plugins", None)
    assert search("last-one", additive([0.1, 0.2, 0.3]), k=1).removed == (2,)


class OfNoUse:
    """No search: it has no plan."""

    name = summary = "of-no-use"
    grows = False


def needs_an_argument(width):
    raise AssertionError


@dataclass
class Stepped:
    """A search with a parameter."""

    steps: int = 1
    name = "stepped"
    summary = "takes steps"
    grows = False

    def plan(self, space, rng):
        yield from ()
        return space.free[self.steps : self.steps + space.k]


class TooMany(LastOne):
    """A search that returns a set of the wrong size."""

    name = "too-many"

    def plan(self, space, rng):
        yield from ()
        return space.free[: space.k + 1]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("OfNoUse", "search 'new': its plug-in gives a OfNoUse without plan; repair or remove"),
        ("needs_an_argument", "search 'new': its plug-in cannot be made .TypeError: .*argument"),
        ("TooMany", "search 'too-many' gave .0, 1., which is no sorted tuple of 1 blocks"),
    ],
)
def test_a_search_from_another_package_that_is_none_is_refused_in_one_line(
    value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(monkeypatch, new=f"test_registry:{value}")
    monkeypatch.setattr(SEARCHES, "_plugins", None)
    with pytest.raises(DepthpruneError, match=message) as caught:
        search("new", additive([0.1, 0.2, 0.3]), k=1)
    assert "\n" not in str(caught.value)


def test_a_search_from_another_package_has_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, stepped="test_registry:Stepped")
    monkeypatch.setattr(SEARCHES, "_plugins", None)
    assert search("stepped:steps=2", additive([0.1, 0.2, 0.3]), k=1).removed == (2,)


@dataclass(frozen=True)
class Counting:
    name: ClassVar[str] = "counting"
    rounds: int = 1
    seed: int = 0


def test_a_count_without_bound_is_refused_and_a_seed_is_none() -> None:
    known: Registry[Any] = Registry("thing", "", {"counting": Counting})
    assert build(known, "counting:rounds=1000000,seed=99999999999", ("name",)).seed == 99999999999
    with pytest.raises(UsageError, match="rounds: expected at most 1,000,000, got 1000001"):
        build(known, "counting:rounds=1000001", ("name",))
