"""What blocks pass on besides hidden states, learned by watching them run once.

Two ways are followed. A block returns more than its hidden states, and the next one is given it
(the very same object). Or all blocks are given one container, and what one writes into it another
reads; a tensor that blocks write into is such a container too. No model is named: whether what was
learned is all that there is, the proof of the replay shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from depthprune.models.blocks.trees import (
    Path,
    at,
    keeps_attributes,
    leaves,
    mapped,
    nodes,
    placed,
)

Tree = tuple[tuple[Any, ...], dict[str, Any]]
"""A block's arguments and keywords, without its hidden states."""


@dataclass(frozen=True)
class Exchange:
    """What is passed on, and where a block is given it.

    Attributes:
        outputs: Places in a block's returned tuple that the next block is given, each with the
            name by which it is carried, or None where a container of that name is carried anyway.
        stores: Names of the containers that blocks write into.
        written_in_place: Those of which the tensors themselves are written into.
        takes: For each block the path in its call of what is carried, by name.
        given: For each block the path in its call of what stands at a place of its output.
        writers: Blocks behind which what is carried is not what it was before them.
        overwrites: Whether blocks write into the hidden states that they are given.
    """

    outputs: Mapping[int, str | None]
    stores: tuple[str, ...]
    written_in_place: frozenset[str]
    takes: Mapping[nn.Module, Mapping[str, Path]]
    given: Mapping[nn.Module, Mapping[int, Path]]
    writers: tuple[nn.Module, ...] = ()
    overwrites: bool = False

    @property
    def carries(self) -> bool:
        """Whether a state is more than hidden states."""
        return bool(self.stores or any(self.outputs.values()))

    def start(self, blocks: Sequence[nn.Module], calls: Sequence[Tree]) -> dict[str, Any]:
        """What is carried before the first block: the containers as the model makes them."""
        found: dict[str, Any] = {}
        for block, call in zip(blocks, calls, strict=True):
            for name, path in self.takes[block].items():
                if name in self.stores and name not in found:
                    found[name] = _own(at(call, path), clone=True)
        return found

    def give(self, block: nn.Module, call: Tree, rest: Mapping[str, Any]) -> Tree:
        """A block's call with what is carried in its place; containers are copies."""
        for name, path in self.takes[block].items():
            if name in rest:
                own = _own(rest[name], clone=name in self.written_in_place)
                call = placed(call, path, own)
        return call

    def take(
        self, block: nn.Module, call: Tree, output: Any, rest: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What is carried behind a block.

        Args:
            block: It has run.
            call: What it was called with, as `give` made it.
            output: What it returned.
            rest: What was carried before it.
        """
        new = dict(rest)
        for place, name in self.outputs.items():
            value = output[place] if isinstance(output, (tuple, list)) else None
            if name is not None and value is not None:
                new[name] = value
            elif name is not None:
                new.pop(name, None)
        for name in self.stores:
            if (path := self.takes[block].get(name)) is not None:
                new[name] = at(call, path)
        return new

    def hand_on(self, block: nn.Module, call: Tree, answer: tuple[Any, ...]) -> tuple[Any, ...]:
        """A skipped block's returned tuple, with what it was given where it hands something on."""
        values = list(answer)
        for place, path in self.given[block].items():
            if place < len(values):
                try:
                    values[place] = at(call, path)
                except LookupError:
                    continue
        return tuple(values)


def _own(value: Any, *, clone: bool) -> Any:
    return mapped(value, lambda _, t: t.clone() if clone else t, objects=True)


@dataclass
class ObservedRun:
    """One block's run, as it was watched.

    Attributes:
        call: What it was called with.
        states: Its hidden states, and a copy of what they were.
        kept: By identity, what might be written into: the thing itself, and its tensors before.
        output: What it returned.
        written: Of those things, the ones that were, and whether in place.
    """

    call: Tree
    states: tuple[Tensor, Tensor]
    kept: dict[int, tuple[Any, dict[str, tuple[Tensor, Tensor]]]] = field(default_factory=dict)
    output: Any = None
    written: dict[int, bool] = field(default_factory=dict)

    @classmethod
    def before(cls, call: Tree, states: Tensor) -> ObservedRun:
        """Note what a block is about to be called with."""
        seen = cls(call, (states, states.clone()))
        for _, value in _writable(call):
            seen.kept[id(value)] = value, {k: (t, t.clone()) for k, t in _tensors(value).items()}
        return seen

    def behind(self, output: Any) -> None:
        """Note what it returned, and what it wrote."""
        self.output = output
        for key, (value, before) in self.kept.items():
            after = _tensors(value)
            replaced = before.keys() != after.keys() or any(
                before[name][0] is not tensor for name, tensor in after.items()
            )
            touched = any(not _same(*pair) for pair in before.values())
            if replaced or touched:
                self.written[key] = touched

    @property
    def overwrote(self) -> bool:
        """Whether the hidden states themselves were written into."""
        return not _same(*self.states)


def _same(now: Tensor, before: Tensor) -> bool:
    # NaN is the only value that is not itself.
    return bool(((now == before) | ((now != now) & (before != before))).all())


def _tensors(value: Any) -> dict[str, Tensor]:
    return dict(leaves(value, objects=True))


def _writable(call: Tree) -> Iterator[tuple[Path, Any]]:
    """Everything in a call that a block could write into."""
    for path, value in nodes(call, objects=True):
        # The first two are the arguments and the keywords themselves, made for each call.
        mutable = isinstance(value, (MutableMapping, list, Tensor)) or keeps_attributes(value)
        if len(path) > 1 and mutable:
            yield path, value


def learn(blocks: Sequence[nn.Module], seen: Sequence[ObservedRun]) -> Exchange | None:
    """What blocks passed on in one run of their model; None where it was hidden states alone.

    Args:
        blocks: In order.
        seen: Each one's run.
    """
    stores = _stores(seen)
    links = _links(seen)
    named: dict[int, str | None] = {}
    for place in sorted({place for found in links for place in found}):
        values = [_output(each.output, place) for each in seen]
        named[place] = None if any(id(v) in stores for v in values) else f"output {place}"
    usual = {
        place: Counter(found[place] for found in links if place in found).most_common(1)[0][0]
        for place in named
    }
    given = [usual | found for found in links]
    overwrites = any(each.overwrote for each in seen)
    if not (stores or named or overwrites):
        return None
    names = {key: f"store {number}" for number, key in enumerate(stores)}
    takes: list[dict[str, Path]] = []
    for each, found in zip(seen, given, strict=True):
        where = {id(value): path for path, value in reversed([*_writable(each.call)])}
        here = {name: where[key] for key, name in names.items() if key in where}
        takes.append(here | {n: found[p] for p, n in named.items() if n is not None})
    return Exchange(
        outputs=named,
        stores=tuple(names.values()),
        written_in_place=frozenset(names[key] for key, in_place in stores.items() if in_place),
        takes=dict(zip(blocks, takes, strict=True)),
        given=dict(zip(blocks, given, strict=True)),
        writers=tuple(
            block
            for block, each, found in zip(blocks, seen, given, strict=True)
            if each.written.keys() & stores.keys() or _hands_on_its_own(each, found)
        ),
        overwrites=overwrites,
    )


def _stores(seen: Sequence[ObservedRun]) -> dict[int, bool]:
    """By identity, what more than one block is given and some write into, outermost alone."""
    times = Counter(key for each in seen for key in each.kept)
    written: dict[int, bool] = {}
    for each in seen:
        for key, in_place in each.written.items():
            if times[key] > 1:
                written[key] = written.get(key, False) or in_place
    inner = {
        id(value)
        for each in seen
        for key, (outer, _) in each.kept.items()
        if key in written
        for _, value in nodes(outer, objects=True)
    }
    return {key: in_place for key, in_place in written.items() if key not in inner}


def _links(seen: Sequence[ObservedRun]) -> list[dict[int, Path]]:
    """For each block, where in its call the one before's outputs stand, by their place there."""
    links: list[dict[int, Path]] = [{}]
    for before, each in pairwise(seen):
        here = {id(value): path for path, value in reversed([*nodes(each.call)])}
        found = {}
        if isinstance(before.output, (tuple, list)):
            for place, value in enumerate(before.output[1:], start=1):
                if _may_be_known_again(value) and id(value) in here:
                    found[place] = here[id(value)]
        links.append(found)
    return links


def _hands_on_its_own(seen: ObservedRun, given: Mapping[int, Path]) -> bool:
    """Whether a block returns something else than it was given, at a place that is passed on."""
    for place, path in given.items():
        try:
            before = at(seen.call, path)
        except LookupError:
            before = None
        if _output(seen.output, place) is not before:
            return True
    return False


def _may_be_known_again(value: Any) -> bool:
    """Whether the same object in two places is no accident, as it is for None and small numbers."""
    if isinstance(value, tuple):
        return bool(value)
    return isinstance(value, (Tensor, Mapping, list)) or keeps_attributes(value)


def _output(output: Any, place: int) -> Any:
    return output[place] if isinstance(output, (tuple, list)) and place < len(output) else None
