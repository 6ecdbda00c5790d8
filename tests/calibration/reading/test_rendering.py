"""A chat template that knows no end is stopped, and named; what others write is transformers'."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from depthprune.calibration.reading import rendering_process
from depthprune.calibration.reading.chats import Chat
from depthprune.calibration.reading.templates import ChatTemplate
from depthprune.errors import CalibrationError
from tiny import tiny_tokenizer

_CHAT = Chat(({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "größer \ud83d"}))
_TALK = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
_LOOPS = "{% set r = range(100000) %}" + "{% for a in r %}" * 4 + "{% endfor %}" * 4
_STRAIGHT = "{% set x = 'aaaa' %}" + "{% set x = x + x %}" * 45
_HUGE = "{% set x = 'a' * 1000 %}{% for i in range(100000) %}{{ x }}{% endfor %}"


def _template(text: str) -> ChatTemplate:
    core: Any = tiny_tokenizer().backend_tokenizer
    return ChatTemplate(
        PreTrainedTokenizerFast(
            tokenizer_object=core, bos_token="<s>", chat_template=text, name_or_path="their/model"
        )
    )


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering_process, "MOST_SECONDS", 2)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("ask", [False, True])
def test_loops_without_end_are_stopped_in_one_line(ask: bool) -> None:
    with pytest.raises(
        CalibrationError,
        match=r"the chat template of their/model was stopped: it takes over 2 seconds to write "
        "one conversation; pass format=plain, or mend the template",
    ):
        _template(_LOOPS).render(_CHAT, "a.jsonl:1", ask=ask)


def test_a_text_that_doubles_is_stopped_by_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering_process, "MOST_MEMORY", 256 << 20)
    monkeypatch.setattr(rendering_process, "MOST_SECONDS", 300)
    with pytest.raises(CalibrationError, match="was stopped: it takes over 256 MiB of memory"):
        _template(_STRAIGHT).render(_CHAT, "a.jsonl:1")


def test_a_text_beyond_measure_is_refused() -> None:
    with pytest.raises(CalibrationError, match="gives a text of 100,000,000 characters"):
        _template(_HUGE).render(_CHAT, "a.jsonl:1")


@pytest.mark.usefixtures("short")
def test_one_that_is_stopped_in_a_later_look_is_not_taken_for_one_that_refuses() -> None:
    template = _template(_TALK + "{% if add_generation_prompt %}" + _LOOPS + "{% endif %}")
    text = template.render(_CHAT, "a.jsonl:1")
    with pytest.raises(CalibrationError, match="was stopped"):
        template.answers(_CHAT, text, "a.jsonl:1")


@pytest.mark.usefixtures("short")
def test_the_next_template_is_written_as_ever() -> None:
    with pytest.raises(CalibrationError, match="was stopped"):
        _template(_LOOPS).render(_CHAT, "a.jsonl:1")
    other = _template(_TALK)
    assert other.render(_CHAT, "a.jsonl:1") == other.tokenizer.apply_chat_template(
        list(_CHAT.turns), tokenize=False
    )


def test_a_process_that_was_ended_meanwhile_is_started_again() -> None:
    template = _template(_TALK)
    before = template.render(_CHAT, "a.jsonl:1")
    rendering_process._writer(rendering_process.os.getpid())._process.kill()
    rendering_process._writer(rendering_process.os.getpid())._process.wait()
    assert template.render(_CHAT, "a.jsonl:1") == before


def test_without_python_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering_process.sys, "executable", "/nowhere/python")
    rendering_process._writer(rendering_process.os.getpid()).stop()
    with pytest.raises(CalibrationError, match="Python could not start one"):
        _template(_TALK).render(_CHAT, "a.jsonl:1")


def test_what_is_written_ahead_is_what_is_written_when_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chats = [
        Chat(({"role": "user", "content": f"Hi {n}"}, {"role": "assistant", "content": str(n)}))
        for n in range(20)
    ]
    template = _template(_TALK + "{{ raise_exception('seven') if messages[0].content[-1] == '7' }}")
    template.render(chats[0], "a.jsonl:1")
    template.read_ahead(chats)
    other = template.tokenizer
    # None of them is asked of the process again.
    monkeypatch.setattr(rendering_process._writer(rendering_process.os.getpid()), "_answers", None)
    for chat in chats:
        if chat.turns[0]["content"][-1] == "7":
            with pytest.raises(CalibrationError, match=r"refuses this conversation \(seven\)"):
                template.render(chat, "a.jsonl:1")
        else:
            expected = other.apply_chat_template(list(chat.turns), tokenize=False)
            assert template.render(chat, "a.jsonl:1") == expected


def test_conversations_beside_an_endless_one_are_not_taken_for_it() -> None:
    template = _template("{% if messages[0].content == 'go' %}" + _LOOPS + "{% endif %}" + _TALK)
    chats = [Chat(({"role": "user", "content": each},)) for each in ("a", "go", "b")]
    before = template.render(chats[2], "a.jsonl:3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering_process, "MOST_SECONDS", 2)
        with pytest.raises(CalibrationError, match="was stopped"):
            template.read_ahead(chats)
    assert template.render(chats[2], "a.jsonl:3") == before


def test_no_conversation_at_all_is_refused_as_transformers_does() -> None:
    with pytest.raises(CalibrationError, match="refuses this conversation"):
        _template("{{ bos_token }}").render(Chat(()), "a.jsonl:1")
