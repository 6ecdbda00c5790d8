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
from depthprune.calibration.reading.rendering import PINNED, TemplateOf
from depthprune.errors import CalibrationError, first_line

Turns = Sequence[Mapping[str, Any]]
Span = tuple[int, int]

_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_RENDERS = 6
_PROBES = ("qAz", "Bkx")


class _RefusedError(CalibrationError):
    """The template does not accept a conversation."""


class ChatTemplate:
    """A tokenizer's chat template.

    Attributes:
        tokenizer: A tokenizer from transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._own = TemplateOf(tokenizer)
        self._steady = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What should be known of the text."""
        if not self._own.dated:
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

    def read_ahead(self, chats: Sequence[Chat]) -> None:
        """Have conversations written together that `render` is about to be asked for.

        Raises:
            CalibrationError: If the template had to be stopped.
        """
        self._own.write_ahead((self._turns(chat.turns), chat.tools, False) for chat in chats)

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
        except _RefusedError:
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
        places = [n for n, turn in enumerate(chat.turns) if turn["role"] == "assistant"]
        turns = self._turns(chat.turns)
        beside = [
            (each, ask) for n in places for each, ask in ((n, True), (n, False), (n + 1, False))
        ]
        self._own.write_ahead((turns[:end], chat.tools, ask) for end, ask in beside)
        for place in places:
            turn = chat.turns[place]
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
        if not _GENERATION.search(self._own.source(chat.tools) or ""):
            return None
        try:
            text, spans = self._own.write(
                self._turns(chat.turns), chat.tools, return_assistant_tokens_mask=True
            )
            found = self.tokenizer(text, add_special_tokens=False)
            mask = [False] * len(found["input_ids"])
            for start, end in spans:
                first = found.char_to_token(0, start)
                if first is None:
                    break
                last = found.char_to_token(0, end - 1)
                end = last + 1 if last else len(mask)
                mask[first:end] = [True] * (end - first)
        except CalibrationError:
            raise
        except Exception:  # A tokenizer in Python only does not know where its tokens lie.
            return None
        return mask if list(found["input_ids"]) == list(ids) and any(mask) else None

    def _by_leaving_out(self, chat: Chat, place: int, text: str) -> Span | None:
        """A turn's span by what is there without it and with it."""
        try:
            before = self._render(Chat(chat.turns[:place], chat.tools), "", ask=True)
            unasked = self._render(Chat(chat.turns[:place], chat.tools), "", ask=False)
            after = self._render(Chat(chat.turns[: place + 1], chat.tools), "", ask=False)
        except _RefusedError:
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
            except _RefusedError:
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
        except _RefusedError:
            return
        if without == text:
            raise CalibrationError(
                f"{name}: the chat template leaves out what tools are called; pass format=plain, "
                "or drop the row"
            )

    def _render(self, chat: Chat, name: str, ask: bool) -> str:
        try:
            turns = self._turns(chat.turns)
            return self._own.write(turns, chat.tools, add_generation_prompt=ask)[0]
        except CalibrationError:
            raise
        except Exception as error:
            if getattr(self.tokenizer, "chat_template", None) is None:
                raise _RefusedError(
                    f"{name}: a chat, and the model's tokenizer has no chat template for it; pass "
                    "format=plain, or choose another format="
                ) from error
            raise _RefusedError(
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
                text = self._own.write([{"role": "user", "content": content}])[0]
            except CalibrationError:
                raise
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
