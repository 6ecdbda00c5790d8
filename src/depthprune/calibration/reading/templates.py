"""A conversation as the text that a model's chat template makes of it, checked.

What a template gives is not taken on trust. It must hold what every turn says, in order, and what
tools are called, be the same each time (today's date, which some templates print, is pinned), and
be given contents in the form that it reads, text or parts of text. The assistant's turns are found
by the template's own `{% generation %}` where it has it, else by rendering with and without them. A
model without a template, or a user who wants none, has `format=plain`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from depthprune.calibration.reading.chats import Chat, turn_text
from depthprune.errors import CalibrationError, first_line

Turns = Sequence[Mapping[str, Any]]
Span = tuple[int, int]

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
_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_RENDERS = 6
_PROBES = ("qAz", "Bkx")


class ChatTemplate:
    """A tokenizer's chat template.

    Attributes:
        tokenizer: A tokenizer from transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._steady = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What should be known of the text."""
        if not self._dated:
            return ()
        return (f"the chat template prints today's date; {PINNED} stands in its place",)

    def render(self, chat: Chat, name: str, *, ask: bool = False) -> str:
        """The text of a conversation, checked.

        Args:
            chat: The conversation.
            name: The document's, for messages.
            ask: Begin the assistant's next turn at the end.

        Raises:
            CalibrationError: If there is no template, it refuses the conversation, leaves a turn
                out, or gives other text each time.
        """
        text = self._render(chat, name, ask)
        if not self._steady:
            if any(self._render(chat, name, ask) != text for _ in range(_RENDERS)):
                raise CalibrationError(
                    f"{name}: the chat template gives other text each time it is used; pass "
                    "format=plain, or mend the template"
                )
            self._steady = True
        _require_turns(chat, text, name)
        self._require_calls(chat, text, name, ask)
        return text

    def question(self, chat: Chat, answer: str, name: str) -> str:
        """The text of a conversation up to where the assistant's answer begins, checked.

        Args:
            chat: What stands before the answer.
            answer: What the assistant says.
            name: The document's, for messages.

        Raises:
            CalibrationError: As `render` does.
        """
        asked = self.render(chat, name, ask=True)
        whole = Chat((*chat.turns, {"role": "assistant", "content": answer}), chat.tools)
        try:
            text = self._render(whole, name, ask=False)
        except CalibrationError:
            return asked
        begun = asked.rstrip()
        if text.startswith(begun) and text[len(begun) :].lstrip().startswith(answer.strip()):
            return asked
        # What the template begins a turn with is not what it answers one with.
        span = self._by_changing(whole, len(chat.turns), text)
        return text[: span[0]] if span else asked

    def answers(self, chat: Chat, text: str, name: str) -> list[Span]:
        """Where the assistant's turns lie in the text, their ends included.

        Args:
            chat: The conversation.
            text: Of `render`.
            name: The document's, for messages.

        Raises:
            CalibrationError: If one cannot be told from the rest.
        """
        found = []
        for place, turn in enumerate(chat.turns):
            if turn["role"] != "assistant":
                continue
            span = self._by_leaving_out(chat, place, text) or self._by_changing(chat, place, text)
            if span is None or _spoken(turn) not in text[slice(*span)]:
                raise CalibrationError(
                    f"{name}: the assistant's turn {place + 1} cannot be told from the rest of "
                    "what the chat template gives; pass mask=all or format=plain"
                )
            found.append(span)
        return found

    def own_mask(self, chat: Chat, ids: Sequence[int]) -> list[bool] | None:
        """Which tokens the template itself calls the assistant's; None if it does not say.

        Args:
            chat: The conversation.
            ids: Its tokens, to which the answer must belong.
        """
        if not _GENERATION.search(self._source(chat) or ""):
            return None
        try:
            found = self.tokenizer.apply_chat_template(
                self._turns(chat.turns),
                **self._options(chat),
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
        except Exception:  # A tokenizer in Python only does not know where its tokens lie.
            return None
        mask = [bool(each) for each in found["assistant_masks"]]
        return mask if list(found["input_ids"]) == list(ids) and any(mask) else None

    def _by_leaving_out(self, chat: Chat, place: int, text: str) -> Span | None:
        """A turn's span by what is there without it and with it."""
        try:
            before = self._render(Chat(chat.turns[:place], chat.tools), "", ask=True)
            unasked = self._render(Chat(chat.turns[:place], chat.tools), "", ask=False)
            after = self._render(Chat(chat.turns[: place + 1], chat.tools), "", ask=False)
        except CalibrationError:
            return None
        if place + 1 == len(chat.turns):
            after = text
        if not (text.startswith(before) and text.startswith(after) and len(after) > len(before)):
            return None
        start = len(before)
        if before == unasked and (changed := self._by_changing(chat, place, text)):
            # It asks for no answer, so what begins the turn is there only with it.
            start = max(start, changed[0])
        return start, len(after)

    def _by_changing(self, chat: Chat, place: int, text: str) -> Span | None:
        """The span of what a turn says by what changes when it says something else."""
        others = []
        for probe in _PROBES:
            turns = [*chat.turns]
            turns[place] = {**turns[place], "content": probe}
            try:
                others.append(self._render(Chat(tuple(turns), chat.tools), "", ask=False))
            except CalibrationError:
                return None
        first, second = others
        start = _shared(first, second)
        end = _shared(first[::-1], second[::-1])
        # Two turns that both say the same would both be changed only if the template repeats one.
        fits = text[:start] == first[:start] and text.endswith(first[len(first) - end :])
        return (start, len(text) - end) if fits and start < len(text) - end else None

    def _require_calls(self, chat: Chat, text: str, name: str, ask: bool) -> None:
        """Refuse a text that is the same without the tools that are called."""
        if not chat.calls:
            return
        try:
            without = self._render(chat.without_calls(), name, ask)
        except CalibrationError:
            return
        if without == text:
            raise CalibrationError(
                f"{name}: the chat template leaves out what tools are called; pass format=plain, "
                "or drop the row"
            )

    def _source(self, chat: Chat | None) -> str | None:
        try:
            tools = list(chat.tools) if chat is not None and chat.tools else None
            found = self.tokenizer.get_chat_template(None, tools)
        except (AttributeError, ValueError, TypeError):
            return None
        return found if isinstance(found, str) else None

    @cached_property
    def _dated(self) -> bool:
        return "strftime_now" in (self._source(None) or "")

    def _options(self, chat: Chat) -> dict[str, Any]:
        options: dict[str, Any] = {"tools": list(chat.tools)} if chat.tools else {}
        source = self._source(chat)
        if source is not None and "strftime_now" in source:
            options["chat_template"] = _PIN + source
        return options

    def _render(self, chat: Chat, name: str, ask: bool) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    self._turns(chat.turns),
                    **self._options(chat),
                    tokenize=False,
                    add_generation_prompt=ask,
                )
            )
        except Exception as error:
            if getattr(self.tokenizer, "chat_template", None) is None:
                raise CalibrationError(
                    f"{name}: a chat, and the model's tokenizer has no chat template for it; pass "
                    "format=plain, or choose another format="
                ) from error
            raise CalibrationError(
                f"{name}: the model's chat template refuses this conversation "
                f"({first_line(error)}); pass format=plain, or drop it"
            ) from error

    def _turns(self, turns: Turns) -> list[dict[str, Any]]:
        return [self._turn(turn) for turn in turns]

    def _turn(self, turn: Mapping[str, Any]) -> dict[str, Any]:
        content = turn.get("content")
        if content is None:
            return dict(turn)
        if not self._reads_parts:
            return {**turn, "content": turn_text(turn)}
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        return {**turn, "content": parts}

    @cached_property
    def _reads_parts(self) -> bool:
        """Whether contents are lists of parts to the template; over a text it would say nothing."""
        (probe, _), shown = _PROBES, []
        for content in (probe, [{"type": "text", "text": probe}]):
            try:
                text = self.tokenizer.apply_chat_template(
                    [{"role": "user", "content": content}], tokenize=False
                )
            except Exception:
                text = ""
            shown.append(probe in text)
        return shown == [False, True]


def plain(chat: Chat, *, ask: bool = False) -> tuple[str, list[Span]]:
    """A conversation without a template: who speaks, a colon, what is said, and calls as JSON.

    Args:
        chat: The conversation.
        ask: End with the assistant's colon.

    Returns:
        The text, and where what the assistant says lies in it.
    """
    text, spans = "", []
    for turn in chat.turns:
        text += ("\n\n" if text else "") + f"{turn['role'].capitalize()}:"
        start = len(text)
        calls = (json.dumps(call, ensure_ascii=False) for call in turn.get("tool_calls") or ())
        text += " " + "\n".join(filter(None, [turn_text(turn), *calls]))
        if turn["role"] == "assistant":
            spans.append((start, len(text)))
    return (f"{text}\n\nAssistant:" if ask else text), spans


def _require_turns(chat: Chat, text: str, name: str) -> None:
    """Refuse a text that lacks what a turn says, or has it before what came before."""
    reached = 0
    for number, turn in enumerate(chat.turns, 1):
        for part in _parts(turn):
            # Some templates put a system's turn before the last question.
            place = text.find(part, 0 if turn["role"] == "system" else reached)
            if place < 0 and turn["role"] == "tool":
                place = max(text.find(json.dumps(part)[1:-1]), 0 if _is_json(part) else -1)
            if place < 0:
                raise CalibrationError(
                    f"{name}: the chat template leaves out or changes turn {number}, the "
                    f"{turn['role']}'s {part!r:.60}; pass format=plain, or drop the row"
                )
            if turn["role"] not in ("system", "tool"):
                reached = place + len(part)


def _parts(turn: Mapping[str, Any]) -> list[str]:
    content = turn.get("content")
    if isinstance(content, list):
        return [part["text"].strip() for part in content]
    return [_spoken(turn)]


def _spoken(turn: Mapping[str, Any]) -> str:
    """What a turn says; templates leave the thoughts of past turns out."""
    text = turn_text(turn)
    return (text.rpartition("</think>")[2] if turn["role"] == "assistant" else text).strip()


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _shared(first: str, second: str) -> int:
    """How many characters two texts begin with alike."""
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))
