"""YAML that says no more than JSON could: words, numbers, truths, nothing, lists and mappings.

A YAML document may ask for types by tags, name itself by aliases, and grow without end once those
are written out. Here tags are refused, an alias counts as often as it is used, and no key is given
twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

_DEPTH_YAML = 50
"""Reading YAML takes several calls a level."""

_NODES = 20_000
"""Values in a YAML document, each counted as often as an alias repeats it."""

_WIDEST = 1 << 63
"""YAML's numbers become counts and seeds, which must fit in a machine's word."""

DIGITS = 40
"""Of a whole number. Tokenizers write "no limit" as a one with thirty noughts behind it."""


class PlainLoader(yaml.SafeLoader):
    """Plain values only, aliases counted as often as they are used, and no key twice."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._weights: dict[int, int] = {}
        self._deep = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A node, its size known with every alias written out."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self._deep += 1
        if self._deep > _DEPTH_YAML:
            raise _problem(event, f"nests over {_DEPTH_YAML} deep")
        try:
            node: yaml.Node | None = super().compose_node(parent, index)
        finally:
            self._deep -= 1
        if isinstance(event, yaml.AliasEvent):
            return node
        if node is not None and id(node) not in self._weights:
            weight = 1 + sum(self._weight(each, node) for each in _nodes(node))
            if weight > _NODES:
                raise _problem(node, f"holds over {_NODES:,} values")
            self._weights[id(node)] = weight
        return node

    def _weight(self, node: yaml.Node, of: yaml.Node) -> int:
        try:
            return self._weights[id(node)]
        except KeyError:
            raise _problem(of, "an alias stands within what it names") from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are words or numbers, each given once."""
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (dict, list)):
                raise _problem(key_node, "a key is a list or a mapping")
            if key in seen:
                raise _problem(key_node, f"{key!s:.80} is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        """A whole number that fits in a machine's word."""
        if len(node.value) > DIGITS:
            raise _problem(node, f"a number of {len(node.value)} digits")
        found: int = super().construct_yaml_int(node)
        if not -_WIDEST <= found < _WIDEST:
            raise _problem(node, f"the number {node.value} is beyond 64 bits")
        return found

    def construct_words(self, node: yaml.ScalarNode) -> str:
        """A text; a date is one like any other."""
        words = str(self.construct_scalar(node))
        if not words.isascii():
            try:
                # An escaped character beyond the first 65,536 is written in two halves.
                words = words.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError as cause:
                raise _problem(node, "half a surrogate pair") from cause
        return words

    def refuse_tag(self, node: yaml.Node) -> Any:
        """A tag asks for a type, and there are none but JSON's."""
        raise _problem(node, f"the tag {node.tag:.80} is not read")


PlainLoader.add_constructor("tag:yaml.org,2002:int", PlainLoader.construct_whole)
for _tag in ("str", "timestamp"):
    PlainLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", PlainLoader.construct_words)
for _tag in ("binary", "omap", "pairs", "set"):
    PlainLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", PlainLoader.refuse_tag)
PlainLoader.add_constructor(None, PlainLoader.refuse_tag)


def _nodes(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _problem(at: Any, what: str) -> yaml.YAMLError:
    mark = getattr(at, "start_mark", None)
    return yaml.constructor.ConstructorError(None, None, what, mark)
