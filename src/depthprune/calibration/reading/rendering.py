"""What a tokenizer's chat template makes of a conversation: transformers' words, within bounds.

Today's date, which some templates print, is pinned, so that the same conversation is the same text
tomorrow. The template runs in a process of its own (`rendering_process.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from depthprune.calibration.reading.rendering_process import (
    EndlessError,
    Written,
    write,
    write_ahead,
)
from depthprune.errors import CalibrationError

PINNED = "26 July 2024"
"""The date that templates print in place of today's."""

_DATE = {
    "%Y-%m-%d": "2024-07-26", "%-d": "26", "%d": "26", "%e": "26", "%b": "Jul", "%B": "July",
    "%-m": "7", "%m": "07", "%Y": "2024", "%y": "24", "%A": "Friday", "%a": "Fri", "%j": "208",
    "%H": "12", "%I": "12", "%M": "00", "%S": "00", "%p": "PM", "%Z": "UTC", "%z": "+0000",
}  # fmt: skip
_PIN = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(f" | replace({mark!r}, {value!r})" for mark, value in _DATE.items())
    + " }}{%- endmacro -%}"
)


class TemplateOf:
    """The template of a tokenizer from transformers."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def source(self, tools: Sequence[Any] = ()) -> str | None:
        """Its text; None if there is none."""
        try:
            found = self._tokenizer.get_chat_template(None, list(tools) or None)
        except (AttributeError, ValueError, TypeError):
            return None
        return found if isinstance(found, str) else None

    @cached_property
    def dated(self) -> bool:
        """Whether it prints today's date."""
        return "strftime_now" in (self.source() or "")

    def write(
        self, turns: Sequence[Mapping[str, Any]], tools: Sequence[Any] = (), **options: bool
    ) -> Written:
        """A conversation's text.

        Args:
            turns: As the template reads them.
            tools: What the model may call.
            **options: Of transformers' `apply_chat_template`.

        Raises:
            CalibrationError: If the template had to be stopped.
            Exception: Whatever it, or transformers, refuses the conversation with.
        """
        request = self._request(turns, tools, options)
        if request is None:
            text = self._tokenizer.apply_chat_template(
                list(turns), tools=list(tools) or None, tokenize=False, **options
            )
            return str(text), []
        with self._stopped():
            return write(request)

    def write_ahead(
        self, chats: Iterable[tuple[Sequence[Mapping[str, Any]], Sequence[Any], bool]]
    ) -> None:
        """Have several conversations written that `write` is about to be asked for.

        Args:
            chats: The turns and the tools of each, and whether the assistant's next turn begins.

        Raises:
            CalibrationError: If the template had to be stopped.
        """
        requests = [
            self._request(turns, tools, {"add_generation_prompt": ask})
            for turns, tools, ask in chats
        ]
        with self._stopped():
            write_ahead([request for request in requests if request is not None])

    def _request(
        self, turns: Sequence[Mapping[str, Any]], tools: Sequence[Any], options: Mapping[str, bool]
    ) -> dict[str, Any] | None:
        """What is to be written; None where no template of the model's is run.

        That is so without one, without a turn, and for a package that needs none.
        """
        source = self.source(tools)
        if source is None or not turns or not self._usual:
            return None
        return {
            **self._special,
            "conversations": [list(turns)],
            "tools": list(tools) or None,
            "chat_template": _PIN + source if "strftime_now" in source else source,
            **options,
        }

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        """Inside the context a template that is stopped is named."""
        try:
            yield
        except EndlessError as error:
            model = getattr(self._tokenizer, "name_or_path", "") or "the model"
            raise CalibrationError(
                f"the chat template of {model} was stopped: {error} to write one conversation; "
                "pass format=plain, or mend the template"
            ) from error

    @cached_property
    def _usual(self) -> bool:
        from transformers import PreTrainedTokenizerBase as Usual

        found = getattr(type(self._tokenizer), "apply_chat_template", None)
        return found is Usual.apply_chat_template

    @cached_property
    def _special(self) -> dict[str, Any]:
        return dict(self._tokenizer.special_tokens_map)
