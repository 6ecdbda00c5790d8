"""Multiple choice in the forms that benchmarks are handed round in, read as one.

A row says by its fields which it is, so nothing need be named. Options are continuations of one
prompt, which is put as lm-evaluation-harness puts it for such (a sentence with a blank is a whole
sentence an option). Which option is right may be said by its place from 0, its letter or label, or
its words; what could mean two of them is refused, since a shifted answer would look like a bad
model.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from depthprune.calibration.reading.chats import require_text_alone
from depthprune.errors import CalibrationError

Row = Mapping[str, Any]
Found = tuple[Any, Any, Any, Sequence[Any]]
"""A prompt, its options, what is said of the right one, and what options are called if not A, B."""

LETTERS = string.ascii_uppercase

QUESTION = "Question: {}\nAnswer:"
"""How lm-evaluation-harness puts a question."""

_LEADS = ("passage", "article", "context", "support")
_PERHAPS_LEADS = ("text", "story", "paragraph", "document", "dialogue", "background", "hint")
"""What a question may be asked of, or may not: `text` often repeats the whole item."""


def find_item(row: Any, where: str) -> Found:
    """What a row says of an item, whatever form it has; nothing of it is checked yet.

    Args:
        row: What a line or a table's row holds.
        where: Its place, for messages.

    Raises:
        CalibrationError: If it has none of the forms.
    """
    if isinstance(row, dict):
        for fields, read in _FORMS:
            if set(fields) <= set(row) and (found := read(row)) is not None:
                require_text_alone(row, where)
                return found
    have = ", ".join(sorted(map(str, row))) if isinstance(row, dict) else type(row).__name__
    raise CalibrationError(
        f"{where}: an item expects prompt, options and answer, or the fields of a known benchmark "
        f"(docs/calibrations.md lists them), and has: {have}; rename them"
    )


def unread(row: Any) -> str:
    """What should be known of a question that may be asked of a text which is not read, if any."""
    if not isinstance(row, dict) or "question" not in row or any(row.get(key) for key in _LEADS):
        return ""
    for key in _PERHAPS_LEADS:
        if isinstance(row.get(key), str) and row[key]:
            return f"its {key!r} is not read; call it passage if the question is asked of it"
    return ""


def right_option(answer: Any, options: Sequence[str], labels: Sequence[Any], where: str) -> int:
    """The place of the right option, from 0.

    Args:
        answer: A place, a letter or label, or the option's words. Where options are called by
            numbers a number is such a name: in quotes, or where they are called so without.
        options: All of them.
        labels: What the options are called; by default A, B, ….
        where: The item's place, for messages.

    Raises:
        CalibrationError: If it names none of them, or could mean two.
    """
    count, why = len(options), ""
    called = [str(name) for name in labels]
    if isinstance(answer, int) and not isinstance(answer, bool):
        numbered = any(map(str.isdecimal, called))
        place = called.index(str(answer)) if numbered and str(answer) in called else None
        if place is not None and (place == answer or answer in labels):
            return place
        if not numbered and 0 <= answer < count:
            return answer
        why = f" (options are called {', '.join(called)})" if numbered else " (the first is 0)"
    elif isinstance(answer, str):
        said = answer.strip()
        named = zip(called or LETTERS[:count], options, strict=False)
        places = [i for i, each in enumerate(named) if said and said in (each[0], each[1].strip())]
        # As a place it may count from 0 or from 1.
        number = not labels and said.isdecimal() and int(said) <= count
        if len(places) == 1 and not (number and int(said) != places[0]):
            return places[0]
        why = " (a number in quotes may count from 0 or from 1)" if number else ""
    raise CalibrationError(
        f"{where}: answer expects the index of an option, 0 to {count - 1}, its letter or its "
        f"words, got {answer!r:.60}{why}; mend it, or drop the item"
    )


def _asked(question: Any, row: Row | None = None) -> Any:
    """What is asked, behind what it is asked of; a question that is no text stays what it is."""
    if not isinstance(question, str):
        return question
    leads = [] if row is None else [row.get(key) for key in _LEADS]
    lead = next((each for each in leads if isinstance(each, str) and each), "")
    return f"{lead}\n{QUESTION.format(question)}".lstrip()


def _own(row: Row) -> Found:
    return row["prompt"], row["options"], row["answer"], ()


def _labelled(row: Row) -> Found | None:
    """ARC, OpenBookQA, CommonsenseQA: choices with labels, from the hub or as first published."""
    question: Any = row.get("question")
    choices: Any = row.get("choices")
    if isinstance(question, dict):
        question, choices = question.get("stem"), question.get("choices", choices)
    if isinstance(choices, list) and all(isinstance(each, dict) for each in choices):
        choices = {key: [each.get(key) for each in choices] for key in ("text", "label")}
    if not isinstance(choices, dict) or not {"text", "label"} <= set(choices):
        return None
    texts, labels = choices["text"], choices["label"]
    if not isinstance(texts, list) or not isinstance(labels, list):
        return None
    stem = row.get("question_stem")
    prompt = stem if isinstance(stem, str) else _asked(question, row)
    return prompt, texts, row["answerKey"], labels


def _listed(options: str) -> Callable[[Row], Found | None]:
    """MMLU, RACE and most of one's own: a list of options, or one by its letters."""

    def read(row: Row) -> Found | None:
        found = row[options]
        prompt = _asked(row["question"], row)
        if isinstance(found, dict):
            return prompt, list(found.values()), row["answer"], list(found)
        return (prompt, list(found), row["answer"], ()) if isinstance(found, list) else None

    return read


def _columns(row: Row) -> Found:
    """A table with a column for each letter, those behind the last option empty."""
    names = [letter for letter in LETTERS if letter in row]
    while len(names) > 2 and row[names[-1]] in (None, ""):
        names.pop()
    return _asked(row["question"], row), [row[name] for name in names], row["answer"], names


def _piqa(row: Row) -> Found:
    return _asked(row["goal"]), [row["sol1"], row["sol2"]], row["label"], ("0", "1")


def _hellaswag(row: Row) -> Found | None:
    context, endings = row["ctx"], row["endings"]
    if not isinstance(context, str) or not isinstance(endings, list):
        return None
    if isinstance(row.get("ctx_a"), str) and isinstance(row.get("ctx_b"), str):
        context = f"{row['ctx_a']} {row['ctx_b'].capitalize()}"
    if isinstance(row.get("activity_label"), str):
        context = f"{row['activity_label']}: {context}"
    options = [_cleaned(each) if isinstance(each, str) else each for each in endings]
    return _cleaned(context), options, row["label"], [str(i) for i in range(len(endings))]


def _cleaned(text: str) -> str:
    """Without the marks that WikiHow's pages left in HellaSwag."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _winogrande(row: Row) -> Found | None:
    sentence, options = row["sentence"], [row["option1"], row["option2"]]
    if not isinstance(sentence, str) or sentence.count("_") != 1:
        return None
    if not all(isinstance(each, str) for each in options):
        return None
    return "", [sentence.replace("_", each) for each in options], row["answer"], ("1", "2")


def _copa(row: Row) -> Found | None:
    words = {"cause": "because", "effect": "therefore"}.get(str(row["question"]))
    premise, options = row["premise"], [row["choice1"], row["choice2"]]
    if words is None or not all(isinstance(each, str) for each in (premise, *options)):
        return None
    prompt = f"{premise.strip().rstrip('.')} {words}"
    return prompt, [each[:1].lower() + each[1:] for each in options], row["label"], ("0", "1")


def _siqa(row: Row) -> Found:
    options = [row[f"answer{letter}"] for letter in "ABC"]
    return _asked(row["question"], row), options, row["label"], (1, 2, 3)


def _sciq(row: Row) -> Found:
    options = [row[f"distractor{number}"] for number in (1, 2, 3)]
    return _asked(row["question"], row), [*options, row["correct_answer"]], 3, ()


def _gold(row: Row) -> Found | None:
    """As several of lm-evaluation-harness's data sets: what is asked is the prompt itself."""
    gold = row["gold"]
    if isinstance(gold, list) and len(gold) == 1:
        gold = gold[0]
    return (row["query"], row["choices"], gold, ()) if isinstance(gold, int) else None


def _boolq(answer: str) -> Callable[[Row], Found | None]:
    def read(row: Row) -> Found | None:
        right, question = row[answer], row["question"]
        if not isinstance(right, (bool, int)) or not isinstance(question, str):
            return None
        prompt = _asked(f"{question.strip().rstrip('?')}?", row)
        return prompt, ["no", "yes"], int(right), ()

    return read


_FORMS: tuple[tuple[tuple[str, ...], Callable[[Row], Found | None]], ...] = (
    (("prompt", "options", "answer"), _own),
    (("goal", "sol1", "sol2", "label"), _piqa),
    (("ctx", "endings", "label"), _hellaswag),
    (("sentence", "option1", "option2", "answer"), _winogrande),
    (("premise", "choice1", "choice2", "question", "label"), _copa),
    (("context", "question", "answerA", "answerB", "answerC", "label"), _siqa),
    (("question", "correct_answer", "distractor1", "distractor2", "distractor3"), _sciq),
    (("query", "choices", "gold"), _gold),
    (("question", "choices", "answerKey"), _labelled),
    (("question_stem", "choices", "answerKey"), _labelled),
    (("question", "answerKey"), _labelled),
    (("question", "choices", "answer"), _listed("choices")),
    (("question", "options", "answer"), _listed("options")),
    (("question", "A", "B", "answer"), _columns),
    (("passage", "question", "answer"), _boolq("answer")),
    (("passage", "question", "label"), _boolq("label")),
)
