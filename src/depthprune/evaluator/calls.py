"""Which windows share a call, decided so that a window's loss never follows what it shares it with.

A product rounds by the shape of its call: on matrix units and GPUs the same row is another number
in its last places when more rows stand beside it, and blocks make that a third digit of the loss.
It does not round by what stands in the other rows. So every window of a calibration is always run
in a call of one shape, whichever windows are to be scored at the moment: where some are missing,
further windows of the same length fill their rows, and behind the last of them its copies. The
shape is part of what a loss is kept under, and a loss is the same to the bit whoever computes it.

On a processor a call is filled by 512 tokens, so that a window of that length is alone in it, which
costs at most a tenth (SmolLM2-135M on AMX, a block: 18.7 µs a token alone, 17.2 in twos; in float32
48.9 and 49.4). Shorter windows share one (128 tokens on AMX: 21.9 µs alone, 14.0 in fours) where
their number leaves at most an eighth of the rows to copies. Items are of any length, so they are
filled up to a multiple of 16 tokens: 23% more tokens on ARC's in 0.65 of the time of each alone
(bfloat16 on AMX; `benchmarks/shared_calls.py`). Blocks whose products follow what is in
the other rows after all, as experts that tokens are sent to do, are found by trying, and their
windows are alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from depthprune.calibration import Window
from depthprune.evaluator.batches import (
    Batch,
    option_rows,
    option_tokens,
    packed_rows,
    text_rows,
)
from depthprune.evaluator.memory import call_tokens
from depthprune.models.blocks.carried import hidden
from depthprune.models.devices import DTYPES
from depthprune.models.free_memory import out_of_memory
from depthprune.models.loading import Model
from depthprune.models.probe_tokens import probe_tokens

_WASTE = 8
"""One row of so many may be a copy."""

_ITEM_STEP = {"cpu": 16}
_ITEM_STEP_ELSEWHERE = 64
"""Items are filled up to a multiple of so many tokens, so that more of them share a call."""


@dataclass(frozen=True)
class Shape:
    """Windows that are run alike.

    Attributes:
        kind: `text`, `packed` (an item in one row) or `options` (an item, a row an option).
        length: Tokens of a row, filled up.
    """

    kind: str
    length: int


@dataclass(frozen=True)
class Call:
    """Windows that are run together, before anything is made for it.

    Attributes:
        shape: Of each of them.
        places: Which of the calibration's windows.
        rows: How many the call has, copies among them.
        size: Tokens that go through each block.
    """

    shape: Shape
    places: tuple[int, ...]
    rows: int
    size: int


class Calls:
    """Lays windows out on batches of their shapes.

    Args:
        model: The model that is to run them.
        windows: All windows of a calibration.
        tokens: Up to how many tokens share a call.
        packs: Whether the model reads packed items exactly.
        attention: Names the attention that is computed.
    """

    def __init__(
        self,
        model: Model,
        windows: Sequence[Window],
        tokens: int,
        *,
        packs: bool,
        attention: str = "",
    ) -> None:
        self._model = model
        self._attention = attention
        self._windows = windows
        self._shapes = [_shape(window, packs, _item_step(model)) for window in windows]
        self._rows = {
            # Reading blocks from disk takes longer than any number of calls.
            shape: 1 if model.streamed else self._chosen(shape, count, tokens)
            for shape, count in Counter(self._shapes).items()
        }

    def key(self, place: int) -> str:
        """What stands for the shape of a window's call."""
        shape = self._shapes[place]
        return f"{shape.kind} {self._rows[shape]}×{shape.length}"

    @property
    def rows(self) -> int:
        """The most windows that share a call."""
        return max(self._rows.values())

    def layout(self, places: Sequence[int], spare: Iterable[int] = ()) -> Iterator[Call]:
        """Say which windows are to share calls.

        Args:
            places: Which, in the order in which they are to be run.
            spare: Others that may fill rows, the first at first.
        """
        fill: dict[Shape, list[int]] = {}
        for place in spare:
            fill.setdefault(self._shapes[place], []).append(place)
        alike: dict[Shape, list[int]] = {}
        for place in places:
            alike.setdefault(self._shapes[place], []).append(place)
        for shape, wanted in alike.items():
            rows = self._rows[shape]
            missing = -len(wanted) % rows
            wanted += fill.get(shape, [])[:missing]
            for first in range(0, len(wanted), rows):
                yield self._call(shape, tuple(wanted[first : first + rows]), rows)

    def batches(self, places: Sequence[int], spare: Iterable[int] = ()) -> Iterator[Batch]:
        """Lay some windows out: see `layout`."""
        return map(self._batch, self.layout(places, spare))

    def alone(self, places: Iterable[int]) -> Iterator[Batch]:
        """Some windows, each on a batch of its own."""
        for place in places:
            yield self._batch(self._call(self._shapes[place], (place,), 1))

    def tokens(self) -> int:
        """Tokens of all batches that hold all windows, those in copies too."""
        return sum(call.size for call in self.layout(range(len(self._windows))))

    def shrink(self, places: Sequence[int]) -> int:
        """Let half as many windows share the calls of some; the answer is how many do then."""
        shape = self._shapes[places[0]]
        self._rows[shape] = max(1, self._rows[shape] // 2)
        return self._rows[shape]

    def _call(self, shape: Shape, places: tuple[int, ...], rows: int) -> Call:
        return Call(shape, places, rows, rows * _tokens(self._windows[places[0]], shape))

    def _batch(self, call: Call) -> Batch:
        if call.shape.kind == "text":
            return text_rows(self._windows, call.places, call.rows)
        if call.shape.kind == "packed":
            dtype = DTYPES[self._model.dtype]
            return packed_rows(self._windows, call.places, dtype, call.rows, call.shape.length)
        return option_rows(self._windows, call.places[0])

    def _chosen(self, shape: Shape, count: int, tokens: int) -> int:
        """How many windows of a shape share a call, of so many that there are."""
        rows = _sharing(shape, count, tokens)
        while rows > 1:
            try:
                return rows if self._apart(rows, shape.length) else 1
            except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                rows //= 2
        return 1

    def _apart(self, rows: int, length: int) -> bool:
        return reads_rows_apart(self._model, rows, length, self._attention)


def _sharing(shape: Shape, count: int, tokens: int) -> int:
    """How many of so many windows of a shape are to share a call, where none follows another."""
    if shape.kind == "options":
        return 1
    rows = 1
    while 2 * rows * shape.length <= tokens:
        rows *= 2
    while rows > 1 and (-count % rows) * _WASTE > count + -count % rows:
        rows //= 2
    return rows


def expected_rows(model: Model, windows: Sequence[Window]) -> int:
    """How many windows of the commonest shape share a call, where none follows another.

    Args:
        model: The model that is to run them; what is streamed shares none.
        windows: The windows.
    """
    if model.streamed:
        return 1
    step = _item_step(model)
    ((shape, count),) = Counter(_shape(window, True, step) for window in windows).most_common(1)
    return _sharing(shape, count, call_tokens(model))


def expected_tokens(model: Model, windows: Sequence[Window]) -> int:
    """Tokens that all windows are laid out on, where items are read packed and no row is a copy.

    Args:
        model: The model that is to run them; one that is streamed reads an option a row.
        windows: The windows.
    """
    step = _item_step(model)
    return sum(_tokens(window, _shape(window, not model.streamed, step)) for window in windows)


def _tokens(window: Window, shape: Shape) -> int:
    """Of one window in a call."""
    return option_tokens(window) if shape.kind == "options" else shape.length


def _item_step(model: Model) -> int:
    return _ITEM_STEP.get(torch.device(model.device).type, _ITEM_STEP_ELSEWHERE)


def _shape(window: Window, packs: bool, step: int) -> Shape:
    length = len(window.tokens)
    if window.item is None:
        return Shape("text", length)
    if packs:
        return Shape("packed", -(-length // step) * step)
    return Shape("options", length)


_TRIED: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], bool]] = WeakKeyDictionary()


def reads_rows_apart(model: Model, rows: int, length: int, attention: str = "") -> bool:
    """Whether a row's final states are the same to the bit beside other rows, and in another place.

    It is tried once for each shape, on drawn tokens: two calls through all blocks.

    Args:
        model: The model.
        rows: Of the call.
        length: Tokens of a row.
        attention: Names the attention that is computed.
    """
    known = _TRIED.setdefault(model.module, {})
    key = (rows, length, attention, torch.get_num_threads())
    if key not in known:
        known[key] = _tried(model, rows, length)
    return known[key]


@torch.inference_mode()
def _tried(model: Model, rows: int, length: int) -> bool:
    drawn = probe_tokens(model.module, (rows + rows // 2, length), seed=rows)
    kept = rows - rows // 2
    # The first rows again, in the last places, behind rows that were not there.
    order = [*range(rows, rows + rows // 2), *range(kept)]
    first, second = _final(model, drawn[:rows]), _final(model, drawn[order])
    return bool(torch.equal(first[:kept], second[rows // 2 :]))


def _final(model: Model, tokens: Tensor) -> Tensor:
    inputs = model.anatomy.record(tokens)
    state = inputs.states
    for block in range(model.blocks):
        with model.anatomy.holding(block):
            state = model.anatomy.call(block, state, inputs)
    return hidden(state)
