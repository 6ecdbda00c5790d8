"""Conversations in the forms that instruction data comes in, read as one.

`messages` of `role` and `content` (TRL, axolotl, OpenAI), ShareGPT's `conversations` of `from` and
`value`, TRL's `prompt` with `completion`, Alpaca's `instruction`, `input` and `output`. A row says
which it is by its fields, so nothing need be named. Contents in parts are kept as parts of text;
what no text model reads (pictures, sound) is refused, never left out, be it a part of a turn or a
field beside the turns. So is what a row itself calls an answer that is not wanted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from depthprune.errors import CalibrationError

CHAT_FIELDS = ("messages", "conversations", "conversation")
"""Fields that hold a list of turns wherever they stand."""

_ALPACA = ("instruction", "input", "output")

ALSO_READ = (*CHAT_FIELDS, "tools", "system", "prompt", "completion", *_ALPACA)
"""Every field that a row without named fields may be read from."""

NO_TEXT = ("image", "images", "audio", "audios", "video", "videos")
"""Fields of what is seen or heard beside the text."""

READ_BESIDE = (*NO_TEXT, "label")
"""Fields that say whether a row may be read, and hold no text."""

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
}

_THOUGHTS = ("reasoning_content", "reasoning", "thinking")

_KINDS_OF_TEXT = ("text", "input_text", "output_text")


@dataclass(frozen=True)
class Chat:
    """A conversation.

    Attributes:
        turns: Each with `role` and `content`, and what else the row gives (`tool_calls`, `name`).
        tools: What the model may call, as the chat template takes it.
    """

    turns: tuple[Mapping[str, Any], ...]
    tools: tuple[Any, ...] = ()

    def texts(self) -> tuple[str, ...]:
        """What each turn says."""
        return tuple(turn_text(turn) for turn in self.turns)

    def changed(self, change: Callable[[str], str]) -> Chat:
        """The same with every text in it changed."""
        found = _changed({"turns": list(self.turns), "tools": list(self.tools)}, change)
        return Chat(tuple(found["turns"]), tuple(found["tools"]))

    @property
    def calls(self) -> bool:
        """Whether any turn calls a tool."""
        return any(turn.get("tool_calls") for turn in self.turns)

    def without_calls(self) -> Chat:
        """The same with no tool called."""
        turns = [{"content": "", **turn} for turn in self.turns]
        for turn in turns:
            turn.pop("tool_calls", None)
        return Chat(tuple(turns), self.tools)

    @property
    def exchange(self) -> tuple[str, str] | None:
        """Question and answer, if that is all there is."""
        roles = [turn["role"] for turn in self.turns]
        if roles != ["user", "assistant"] or self.tools or self.calls:
            return None
        question, answer = self.texts()
        return question, answer


def turn_text(turn: Mapping[str, Any]) -> str:
    """The text of a turn's content, its parts joined."""
    content = turn.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content or ())


def thoughts(turn: Mapping[str, Any]) -> list[str]:
    """What an assistant's turn thinks before it speaks: in fields of their own, or its content."""
    before, _, _ = turn_text(turn).rpartition("</think>")
    found = [turn.get(name) for name in _THOUGHTS]
    texts = [before.rpartition("<think>")[2], *(text for text in found if isinstance(text, str))]
    return [text.strip() for text in texts if text.strip()]


def find_chat(row: Any, where: str) -> Chat | None:
    """The conversation of a row whose fields say that it is one, else None.

    Args:
        row: What a line or a table's row holds; a list is one of turns.
        where: Its place, for messages.

    Raises:
        CalibrationError: If it is one, and holds something else than turns of text.
    """
    if isinstance(row, list) and row and isinstance(row[0], dict):
        return _chat(row, None, where)
    found = _chat_of_fields(row, where) if isinstance(row, dict) else None
    if found is not None:
        require_text_alone(row, where)
    return found


def require_text_alone(row: Mapping[str, Any], where: str) -> None:
    """Refuse a row whose text goes with a picture or a sound.

    Raises:
        CalibrationError: Naming the field.
    """
    name = next((name for name in NO_TEXT if row.get(name)), None)
    if name is not None:
        raise CalibrationError(
            f"{where}: its field {name!r} holds what is no text; only text calibrates a language "
            "model, drop the row"
        )


def _chat_of_fields(row: Mapping[str, Any], where: str) -> Chat | None:
    for name in CHAT_FIELDS:
        if isinstance(row.get(name), (list, str)) and row[name]:
            return named_chat(row, name, where)
    if isinstance(row.get("instruction"), str) and isinstance(row.get("output"), str):
        return _alpaca(row)
    if "prompt" in row and "completion" in row:
        return _completion(row, where)
    return None


def named_chat(row: Mapping[str, Any], name: str, where: str) -> Chat:
    """The conversation that a row's field holds.

    Raises:
        CalibrationError: If it holds something else.
    """
    turns = row[name]
    if isinstance(turns, str):
        try:
            turns = json.loads(turns)
        except (ValueError, RecursionError):
            turns = None
    if not isinstance(turns, list) or not turns:
        raise CalibrationError(f"{where}: field {name!r} expects a list of turns")
    lead = row.get("system")
    if isinstance(lead, str) and lead.strip() and _role(turns[0]) != "system":
        turns = [{"role": "system", "content": lead}, *turns]
    return _chat(turns, row.get("tools"), where)


def _alpaca(row: Mapping[str, Any]) -> Chat:
    context = row.get("input")
    question = row["instruction"]
    if isinstance(context, str) and context.strip():
        question = f"{question}\n\n{context}"
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]
    lead = row.get("system")
    if isinstance(lead, str) and lead.strip():
        turns.insert(0, {"role": "system", "content": lead})
    return Chat(tuple(turns))


def _completion(row: Mapping[str, Any], where: str) -> Chat | None:
    prompt, completion = row["prompt"], row["completion"]
    if row.get("label") is False:
        raise CalibrationError(
            f"{where}: its label is false, so its completion is one that is not wanted; drop such "
            "rows"
        )
    if isinstance(prompt, str) and isinstance(completion, str):
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        return Chat(tuple(turns))
    if isinstance(prompt, list) and isinstance(completion, list):
        return _chat([*prompt, *completion], row.get("tools"), where)
    return None


def _chat(turns: Sequence[Any], tools: Any, where: str) -> Chat:
    read = tuple(_turn(turn, f"{where}: turn {number}") for number, turn in enumerate(turns, 1))
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise CalibrationError(f"{where}: field 'tools' expects a JSON list") from error
    if tools and not isinstance(tools, list):
        raise CalibrationError(f"{where}: field 'tools' expects a list")
    return Chat(read, tuple(_given(each) for each in tools or ()))


def _role(turn: Any) -> str:
    found = turn.get("role") or turn.get("from") if isinstance(turn, dict) else None
    return _ROLES.get(found.lower(), found.lower()) if isinstance(found, str) else ""


def _turn(turn: Any, where: str) -> dict[str, Any]:
    role = _role(turn)
    if not role:
        raise CalibrationError(f"{where} has no role; expected role and content, or from and value")
    kept = {key: _given(value) for key, value in turn.items() if value is not None}
    kept.pop("from", None)
    content = kept.pop("value", None) if "content" not in kept else kept["content"]
    kept["role"] = role
    if "tool_calls" in kept:
        kept["tool_calls"] = _calls(kept["tool_calls"], where)
    if content is not None or not kept.get("tool_calls"):
        kept["content"] = _content(content, where)
    return kept


def _content(content: Any, where: str) -> str | list[dict[str, str]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        kind = type(content).__name__
        raise CalibrationError(f"{where}: content expects text or parts of text, got {kind}")
    parts = []
    for part in content:
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        kind = str(part.get("type")) if isinstance(part, dict) else type(part).__name__
        if kind not in _KINDS_OF_TEXT or not isinstance(part.get("text"), str):
            raise CalibrationError(
                f"{where}: a part of type {kind!r:.40}; only text calibrates a language "
                "model, drop the row"
            )
        parts.append({"type": "text", "text": part["text"]})
    return parts


def _calls(calls: Any, where: str) -> list[Any]:
    """The tool calls of a turn, which a table may hold as a text."""
    if isinstance(calls, str):
        try:
            calls = json.loads(calls) if calls.strip() else []
        except (ValueError, RecursionError):
            calls = None
    if not isinstance(calls, list):
        raise CalibrationError(f"{where}: tool_calls expects a list of calls")
    return [_call(call, where) for call in calls]


def _call(call: Any, where: str) -> Any:
    """A tool call with its arguments as templates read them; OpenAI writes them as a string."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError) as error:
        raise CalibrationError(f"{where}: a tool call's arguments are not JSON") from error
    return {**call, "function": {**function, "arguments": arguments}}


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_changed(key, change): _changed(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [_changed(each, change) for each in value]
    return value


def _given(value: Any) -> Any:
    """Without the fields that a table fills with nothing because another row has them."""
    if isinstance(value, dict):
        return {key: _given(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_given(each) for each in value]
    return value
