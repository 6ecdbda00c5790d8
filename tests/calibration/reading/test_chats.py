"""Conversations in every common form become the windows that the model's own template gives."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from depthprune.calibration import Calibration, calibrate
from depthprune.errors import CalibrationError
from tiny import tiny_tokenizer

_PLAIN = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
_PARTS = (
    "{% for m in messages %}[{{ m['role'] }}] {% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
_MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}[assistant] {% generation %}"
    "{{ m['content'] }}</s>{% endgeneration %}{% else %}[{{ m['role'] }}] {{ m['content'] }}"
    "{% endif %}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
_TOOLED = "{% if tools %}TOOLS {{ tools | tojson }}\n{% endif %}" + _PLAIN.replace(
    "{{ m['content'] }}",
    "{{ m['content'] or '' }}{% for c in m['tool_calls'] or [] %}"
    "CALL {{ c['function']['arguments']['city'] }}{% endfor %}",
)


def _tokenizer(template: str | None = _PLAIN) -> PreTrainedTokenizerFast:
    core = Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str())
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", chat_template=template
    )


def _chat(number: int) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": f"What comes after {number}?"},
        {"role": "assistant", "content": str(number + 1)},
        {"role": "user", "content": "And before?"},
        {"role": "assistant", "content": f"It is {number - 1}"},
    ]


def _rows(form: Any, count: int = 20) -> list[Any]:
    return [form(i) for i in range(count)]


def _file(folder: Path, rows: list[Any], name: str = "a.jsonl") -> Path:
    file = folder / name
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


def _drawn(spec: str, template: str | None = _PLAIN) -> Calibration:
    reader = SimpleNamespace(tokenizer=_tokenizer(template))
    return calibrate(f"{spec},windows=4,length=400", reader)


def _texts(drawn: Calibration) -> list[str]:
    return [str(tiny_tokenizer().decode(w.tokens)) for w in drawn.windows]


def _scored(drawn: Calibration) -> list[str]:
    return [str(tiny_tokenizer().decode(w.tokens[w.scored])) for w in drawn.windows]


def _rendered(chats: list[Any], drawn: Calibration, template: str = _PLAIN) -> list[str]:
    """What transformers makes of the same conversations."""
    return [
        str(_tokenizer(template).apply_chat_template(chats[w.start], tokenize=False))
        for w in drawn.windows
    ]


def _shared_gpt(number: int) -> dict[str, Any]:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    turns = [{"from": names[t["role"]], "value": t["content"]} for t in _chat(number)]
    return {"id": f"x{number}", "conversations": turns}


def _in_parts(number: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": t["role"], "content": [{"type": "text", "text": t["content"]}]}
            for t in _chat(number)
        ]
    }


_FORMS: dict[str, Any] = {
    "messages": lambda i: {"messages": _chat(i)},
    "messages beside other fields": lambda i: {"source": "x", "messages": _chat(i), "n": i},
    "ShareGPT": _shared_gpt,
    "ShareGPT, system apart": lambda i: {
        "system": "Answer in one word.",
        "conversations": _shared_gpt(i)["conversations"][1:],
    },
    "TRL, prompt and completion": lambda i: {"prompt": _chat(i)[:4], "completion": _chat(i)[4:]},
    "contents in parts": _in_parts,
    "a bare list of turns": _chat,
    "a list written as a text": lambda i: {"messages": json.dumps(_chat(i))},
}


@pytest.mark.parametrize("keys", ["", ",format=chat"])
@pytest.mark.parametrize("form", _FORMS)
def test_a_window_is_the_conversation_as_the_template_gives_it(
    form: str, keys: str, tmp_path: Path
) -> None:
    file = _file(tmp_path, _rows(_FORMS[form]))
    drawn = _drawn(f"jsonl:{file}{keys}")
    assert _texts(drawn) == _rendered(_rows(_chat), drawn)


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list_of_conversations_is_its_conversations(
    indent: int | None, tmp_path: Path
) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(_rows(_chat), indent=indent), encoding="utf-8")
    drawn = _drawn(f"jsonl:{file}")
    assert _texts(drawn) == _rendered(_rows(_chat), drawn)


def test_a_field_of_another_name_is_named(tmp_path: Path) -> None:
    file = _file(tmp_path, _rows(lambda i: {"dialogue": _chat(i), "text": "no"}))
    drawn = _drawn(f"jsonl:{file},field=dialogue")
    assert _texts(drawn) == _rendered(_rows(_chat), drawn)


def test_a_text_beside_a_conversation_is_still_the_text(tmp_path: Path) -> None:
    file = _file(tmp_path, _rows(lambda i: {"messages": _chat(i), "text": f"Plain text {i}. " * 9}))
    drawn = calibrate(f"jsonl:{file},windows=4,length=16", SimpleNamespace(tokenizer=_tokenizer()))
    assert "[user]" not in "".join(_texts(drawn))


def _parquet(folder: Path, rows: list[Any]) -> Path:
    parquet.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    return folder / "a.parquet"


def test_rows_of_parquet_are_conversations_too(tmp_path: Path) -> None:
    rows = _rows(lambda i: {"messages": _chat(i), "n": i})
    rows[3]["messages"][1]["name"] = "Ada"  # A table fills the field for every other turn.
    drawn = _drawn(f"parquet:{_parquet(tmp_path, rows)}")
    assert _texts(drawn) == _rendered(_rows(_chat), drawn)


def test_an_instruction_its_input_and_its_output_are_question_and_answer(tmp_path: Path) -> None:
    rows = _rows(
        lambda i: {"instruction": "Add one.", "input": str(i) if i % 2 else "", "output": f"{i}+1"}
    )
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    drawn = _drawn(f"jsonl:{tmp_path}/a.json,mask=answer")
    for window, text, counted in zip(drawn.windows, _texts(drawn), _scored(drawn), strict=True):
        i = window.start
        question = f"Add one.\n\n{i}" if i % 2 else "Add one."
        assert text == f"[user] {question}\n[assistant] {i}+1\n"
        assert counted == f" {i}+1\n" or counted == f"{i}+1\n"


def test_an_instruction_can_be_asked_zero_shot(tmp_path: Path) -> None:
    file = _file(tmp_path, _rows(lambda i: {"instruction": f"Add to {i}.", "output": f"{i}+1"}))
    drawn = _drawn(f"jsonl:{file},format=zero-shot,mask=answer", template=None)
    assert _texts(drawn)[0].startswith("Question: Add to ")
    assert _scored(drawn) == [f" {w.start}+1" for w in drawn.windows]


def test_the_mask_is_what_the_template_itself_marks(tmp_path: Path) -> None:
    file = _file(tmp_path, _rows(lambda i: {"messages": _chat(i)}))
    drawn = _drawn(f"jsonl:{file},mask=answer", _MARKED)
    for window in drawn.windows:
        found = _tokenizer(_MARKED).apply_chat_template(
            _chat(window.start), return_dict=True, return_assistant_tokens_mask=True
        )
        assert window.tokens.tolist() == found["input_ids"]
        assert window.scored.tolist() == [bool(each) for each in found["assistant_masks"]]


_DEAF = _PLAIN.partition("{% if add_generation_prompt")[0]  # Does not ask for an answer.
_FORGETS = (  # Leaves the thoughts of earlier turns out, as Qwen's and DeepSeek's do.
    "{% for m in messages %}[{{ m['role'] }}] {% if loop.last or m['role'] != 'assistant' %}"
    "{{ m['content'] }}{% else %}{{ m['content'].split('</think>')[-1] }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.mark.parametrize("template", [_PLAIN, _PARTS, _DEAF, _FORGETS])
def test_the_mask_is_the_assistant_s_turns_and_no_other_s(template: str, tmp_path: Path) -> None:
    def thoughtful(i: int) -> dict[str, Any]:
        turns = _chat(i)
        if template == _FORGETS:
            turns[2]["content"] = f"<think>I count.</think>{turns[2]['content']}"
        return {"messages": turns}

    file = _file(tmp_path, _rows(thoughtful))
    drawn = _drawn(f"jsonl:{file},mask=answer", template)
    for window, counted in zip(drawn.windows, _scored(drawn), strict=True):
        said = "".join(counted.split())
        assert said == f"{window.start + 1}Itis{window.start - 1}"
        assert not window.scored[0]


def test_tools_and_calls_reach_the_template(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    call = {"function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
    turns = [
        {"role": "user", "content": "Is it wet?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": '{"wet": true}'},
        {"role": "assistant", "content": "Yes."},
    ]
    rows = [{"messages": turns, "tools": json.dumps(tools) if i % 2 else tools} for i in range(20)]
    drawn = _drawn(f"jsonl:{_file(tmp_path, rows)},mask=answer", _TOOLED)
    for text, counted in zip(_texts(drawn), _scored(drawn), strict=True):
        assert text.startswith("TOOLS [{")
        assert "CALL Ulm" in counted
        assert "Yes." in counted
        assert "wet" not in counted


def _calling(i: int, called: Any, content: str | None = None) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": f"Is it wet on day {i}?"},
        {"role": "assistant", "content": content, "tool_calls": called},
    ]


_CALL = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}]


@pytest.mark.parametrize("content", [None, "", "One moment."])
@pytest.mark.parametrize("called", [_CALL, json.dumps(_CALL)])
def test_tools_that_are_called_are_never_left_out(
    called: Any, content: str | None, tmp_path: Path
) -> None:
    file = _file(tmp_path, _rows(lambda i: {"messages": _calling(i, called, content)}))
    assert all("CALL Ulm" in text for text in _texts(_drawn(f"jsonl:{file}", _TOOLED)))
    plain = _texts(_drawn(f"jsonl:{file},format=plain"))
    assert all('"arguments": {"city": "Ulm"}' in text for text in plain)
    with pytest.raises(CalibrationError, match="template leaves out what tools are called; pass"):
        _drawn(f"jsonl:{file}")


def test_answers_of_worked_examples_do_not_count(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"What comes after {i}?"},
                          {"role": "assistant", "content": f"It is {i + 1}."}]}
            for i in range(20)]  # fmt: skip
    for template in (_PLAIN, _MARKED):
        for form in ("chat", "plain"):
            spec = f"jsonl:{_file(tmp_path, rows)},format={form},shots=2,mask=answer"
            drawn = _drawn(spec, template)
            for window, text, counted in zip(
                drawn.windows, _texts(drawn), _scored(drawn), strict=True
            ):
                assert text.count("It is") == 3
                assert counted.strip().removesuffix("</s>") == f"It is {window.start + 1}."


def test_how_many_conversations_are_too_long_is_said(tmp_path: Path) -> None:
    rows = _rows(
        lambda i: {"messages": [{"role": "user", "content": "why? " * (90 * (i % 2) + 2)}]}
    )
    reader = SimpleNamespace(tokenizer=_tokenizer())
    drawn = calibrate(f"jsonl:{_file(tmp_path, rows)},windows=all,length=60", reader)
    (note,) = drawn.parts[0].notes
    assert len(drawn.windows) == 9
    assert note.startswith("9 of the 18 examples looked at are longer than length=")


@pytest.mark.parametrize("format_", ["chat", "plain"])
def test_a_template_that_reads_parts_is_given_parts(format_: str, tmp_path: Path) -> None:
    rows = _rows(lambda i: {"q": f"Which number follows {i}?", "a": f"That is {i + 1}."})
    spec = f"jsonl:{_file(tmp_path, rows)},prompt=q,answer=a,mask=answer,format={format_}"
    drawn = _drawn(spec, _PARTS)
    for window, text in zip(drawn.windows, _texts(drawn), strict=True):
        i = window.start
        expected = {
            "chat": f"[user] Which number follows {i}?\n[assistant] That is {i + 1}.",
            "plain": f"User: Which number follows {i}?\n\nAssistant: That is {i + 1}.",
        }
        assert text == expected[format_]


def test_an_answer_stands_in_a_turn_of_its_own_where_the_template_asks_for_none(
    tmp_path: Path,
) -> None:
    rows = _rows(lambda i: {"q": f"What is {i}?", "a": "A number."})
    spec = f"jsonl:{_file(tmp_path, rows)},prompt=q,answer=a,mask=answer,format=chat"
    drawn = _drawn(spec, _DEAF)
    expected = [f"[user] What is {w.start}?\n[assistant] A number." for w in drawn.windows]
    assert _texts(drawn) == expected


def test_without_a_template_turns_are_written_plainly_where_that_is_asked_for(
    tmp_path: Path,
) -> None:
    file = _file(tmp_path, _rows(lambda i: {"messages": _chat(i)}))
    with pytest.raises(CalibrationError, match="no chat template for it; pass format=plain"):
        _drawn(f"jsonl:{file}", template=None)
    drawn = _drawn(f"jsonl:{file},format=plain,mask=answer", template=None)
    i = drawn.windows[0].start
    assert _texts(drawn)[0] == (
        f"System: Answer in one word.\n\nUser: What comes after {i}?\n\nAssistant: {i + 1}\n\n"
        f"User: And before?\n\nAssistant: It is {i - 1}"
    )
    assert _scored(drawn)[0] == f" {i + 1} It is {i - 1}"


def test_an_item_s_prompt_may_be_a_conversation(tmp_path: Path) -> None:
    rows = _rows(lambda i: {"prompt": _chat(i)[:4], "options": ["one", "two"], "answer": i % 2})
    reader = SimpleNamespace(tokenizer=_tokenizer())
    drawn = calibrate(f"choices:{_file(tmp_path, rows)},windows=4", reader)
    for window in drawn.windows:
        assert window.item is not None
        prompt = tiny_tokenizer().decode(window.tokens[: window.item.spans[0][0]])
        asked = _tokenizer().apply_chat_template(
            _chat(window.start)[:4], tokenize=False, add_generation_prompt=True
        )
        assert str(prompt).rstrip() == str(asked).rstrip()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[-1]['content'] }}", "leaves out or changes turn 1, the system's"),
        ("{{ raise_exception('no system turns') }}", "refuses this conversation (no system turns)"),
        (_PLAIN + "{{ [1, 2, 3, 4, 5, 6, 7, 8] | random }}", "gives other text each time"),
        (_PLAIN.replace("m['content']", "m['content'] | upper"), "leaves out or changes turn 1"),
    ],
)
def test_a_template_that_does_not_say_what_is_said_is_refused(
    template: str, message: str, tmp_path: Path
) -> None:
    file = _file(tmp_path, _rows(lambda i: {"messages": _chat(i)}))
    with pytest.raises(CalibrationError) as caught:
        _drawn(f"jsonl:{file}", template)
    assert message in str(caught.value)


def test_today_s_date_is_pinned_and_that_is_said(tmp_path: Path) -> None:
    file = _file(tmp_path, _rows(lambda i: {"messages": _chat(i)}))
    drawn = _drawn(f"jsonl:{file}", "{{ strftime_now('%d %b %Y, %H:%M') }}\n" + _PLAIN)
    assert all(text.startswith("26 Jul 2024, 12:00\n[system]") for text in _texts(drawn))
    assert any("26 July 2024 stands in its place" in line for line in drawn.warnings())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": "no list"}, "field 'messages' expects a list of turns"),
        ({"messages": [{"content": "who?"}]}, "turn 1 has no role"),
        ({"messages": [{"role": "user", "content": 3}]}, "content expects text or parts of text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "turn 1: a part of type 'image_url'; only text calibrates",
        ),
        ({"messages": _chat(0), "tools": "no list"}, "field 'tools' expects a JSON list"),
        ({"messages": _calling(0, "no list")}, "turn 2: tool_calls expects a list of calls"),
        ({"messages": _calling(0, {"name": "x"})}, "turn 2: tool_calls expects a list of calls"),
        ({"text": "plain"}, "no conversation, and"),
        (
            {"messages": _chat(0), "images": ["x.png"]},
            "field 'images' holds what is no text; only text calibrates",
        ),
        (
            {**_shared_gpt(0), "image": {"bytes": "", "path": "x.png"}},
            "field 'image' holds what is no text",
        ),
        ({"prompt": "Why?", "completion": "No.", "label": False}, "one that is not wanted"),
    ],
)
def test_a_row_that_is_no_conversation_of_text_is_refused_by_its_place(
    row: Any, message: str, tmp_path: Path
) -> None:
    file = _file(tmp_path, [{"messages": _chat(0)}, row])
    with pytest.raises(CalibrationError) as caught:
        _drawn(f"jsonl:{file}")
    assert f"{file}:2" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("row", "keys", "message"),
    [
        ({"messages": _chat(0)[:2]}, "mask=answer", "has no assistant's turn; drop the row"),
        ({"messages": _chat(0)}, "format=zero-shot", "needs a prompt with its answer"),
        ({"messages": _chat(0)}, "min_length=9", "min_length= means nothing with conversations"),
        ({"text": "plain"}, "format=chat", "needs prompts or conversations, and"),
        ({"text": "plain"}, "mask=answer", "mask=answer needs answers, and"),
    ],
)
def test_keys_that_the_rows_cannot_serve_are_refused(
    row: Any, keys: str, message: str, tmp_path: Path
) -> None:
    file = _file(tmp_path, [row] * 20)
    with pytest.raises(CalibrationError) as caught:
        _drawn(f"jsonl:{file},{keys}")
    assert message in str(caught.value)


def test_a_conversation_longer_than_the_length_is_left_out(tmp_path: Path) -> None:
    rows = _rows(lambda i: {"messages": _chat(i)})
    rows[2]["messages"][1]["content"] *= 50
    reader = SimpleNamespace(tokenizer=_tokenizer())
    drawn = calibrate(f"jsonl:{_file(tmp_path, rows)},windows=all,length=400", reader)
    assert 2 not in {w.start for w in drawn.windows}
    assert len(drawn.windows) == 17


def test_a_picture_in_a_table_of_conversations_is_refused_and_an_empty_field_is_none(
    tmp_path: Path,
) -> None:
    file = tmp_path / "seen.parquet"
    for name in ("image", "video"):
        for shown in (None, b"x"):
            rows = [{"messages": _chat(i), name: shown if i == 1 else None} for i in range(20)]
            schema = pa.schema([(name, pa.binary())])
            table = pa.table({"messages": [row["messages"] for row in rows]}).append_column(
                schema.field(0), pa.array([row[name] for row in rows], pa.binary())
            )
            parquet.write_table(table, file)
            if shown is None:
                assert len(_drawn(f"parquet:{file}").windows) == 4
                continue
            with pytest.raises(CalibrationError, match=f":1: its field '{name}' holds what is no"):
                _drawn(f"parquet:{file}")


@pytest.mark.parametrize("aside", ["reasoning_content", "thinking", "content"])
def test_thoughts_that_are_left_out_are_said(aside: str, tmp_path: Path) -> None:
    forgets = _PLAIN.replace("m['content']", "m['content'].split('</think>')[-1]")

    def row(number: int) -> dict[str, Any]:
        said = f"It is {number}."
        if aside == "content":
            return {"role": "assistant", "content": f"<think>\nLet me see.\n</think>\n\n{said}"}
        return {"role": "assistant", "content": said, aside: "Let me see."}

    rows = _rows(lambda i: {"messages": [{"role": "user", "content": "Why?"}, row(i)]})
    file = _file(tmp_path, rows)
    (note,) = _drawn(f"jsonl:{file}", forgets).parts[0].notes
    assert note.startswith("4 of the 4 examples looked at are read without all that the assistant")
    heard = _PLAIN.replace("{{ m['content'] }}", f"{{{{ m['{aside}'] }}}}{{{{ m['content'] }}}}")
    assert not _drawn(f"jsonl:{file}", heard).parts[0].notes
