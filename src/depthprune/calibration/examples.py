"""Prompts with answers as windows: zero-shot, few-shot, in a chat, and multiple-choice items.

A conversation is a window as it stands, by the model's chat template.

One window is one example. Prompt and continuation are tokenised as lm-evaluation-harness does it:
whitespace at the prompt's end goes over to the continuation, both are tokenised together, and the
continuation's tokens are the whole's minus as many as the prompt has alone. Where the tokenizer
merges across the border, the prompt keeps the tokens that it has alone and the continuation loses
what was merged into them; a continuation that is left without a token is refused. A prompt is
therefore the same tokens before each of its options, which is what lets options share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from depthprune.calibration.bos import with_bos
from depthprune.calibration.drawing import (
    TooLittleText,
    document_border,
    documents_of,
    within_budget,
)
from depthprune.calibration.reading.chats import Chat, thoughts
from depthprune.calibration.reading.documents import Document
from depthprune.calibration.reading.items import QUESTION
from depthprune.calibration.reading.templates import ChatTemplate, plain
from depthprune.calibration.spec import CalibrationSpec
from depthprune.calibration.windows import Item, Split, Window, plain_window
from depthprune.errors import CalibrationError

_AHEAD = 16
"""Conversations that a chat template writes together."""


@dataclass(frozen=True)
class ExamplePool:
    """The examples of one source, from which draws are taken.

    Attributes:
        documents: Prompts with their answers, in the source's order.
        tokenizer: A tokenizer from transformers.
        lead: The tokens that begin every example.
        fits: Of every example that was looked at, whether it is short enough.
        thoughtless: Those of them that lack, as they are written, what the assistant thinks.
    """

    documents: Sequence[Document]
    tokenizer: Any
    lead: tuple[int, ...] = ()
    fits: dict[int, bool] = field(default_factory=dict, init=False, repr=False, compare=False)
    thoughtless: set[int] = field(default_factory=set, init=False, repr=False, compare=False)

    def draw(self, spec: CalibrationSpec, split: Split) -> tuple[Window, ...]:
        """The windows of a spec: see `drawing.draw_windows` for the splits.

        Raises:
            CalibrationError: If there are too few examples, or one cannot be tokenised.
        """
        chosen: Sequence[int] = documents_of(spec, split, len(self.documents))
        if not spec.consecutive:
            rng = np.random.default_rng([spec.seed, int(split == "held-out")])
            chosen = rng.permutation(np.asarray(chosen)).tolist()
        windows = self._enough(spec, chosen)
        sizes = [len(window.tokens) for window in windows]
        count = within_budget(spec, sizes, at_most=split == "held-out")
        if count is None:
            fit = "" if self._is_choices else f" fit in length={spec.length}, of {len(chosen)}"
            raise TooLittleText(
                f"{spec.short()}: {len(windows)} examples{fit} outside the last tenth, which is "
                f"held out, and {spec.amount} was asked; lower windows= or give more"
            )
        return tuple(sorted(windows[:count], key=lambda window: window.start))

    @cached_property
    def template(self) -> ChatTemplate:
        """The tokenizer's chat template."""
        return ChatTemplate(self.tokenizer)

    @property
    def notes(self) -> tuple[str, ...]:
        """What should be known of the examples that were taken, and left out."""
        return notes_of_pools([self])

    @property
    def _is_choices(self) -> bool:
        return bool(self.documents[0].options)

    def those_that_fit(self, spec: CalibrationSpec, chosen: Iterable[int]) -> Iterator[Window]:
        """Examples as windows, in the order given, without those that are too long.

        Args:
            spec: How they are written.
            chosen: Their numbers in the source.
        """
        rest = iter(chosen)
        while group := list(islice(rest, _AHEAD)):
            self._read_ahead(spec, group)
            for index in group:
                window = self.window(spec, index)
                self.fits[index] = window is not None
                if window is not None:
                    yield window

    def _read_ahead(self, spec: CalibrationSpec, indices: Sequence[int]) -> None:
        """Have the template write conversations together, which it is about to be asked for."""
        chats = [
            self._turns(self.documents[index], self._shots_of(spec, index), asking=False)
            for index in indices
            if self._is_conversation(spec, self.documents[index]) and spec.format != "plain"
        ]
        if chats:
            self.template.read_ahead(chats)

    def _enough(self, spec: CalibrationSpec, chosen: Sequence[int]) -> list[Window]:
        """Windows in the order given, until there are as many as the spec asks for."""
        windows: list[Window] = []
        tokens = 0
        for window in self.those_that_fit(spec, chosen):
            windows.append(window)
            tokens += len(window.tokens)
            if len(windows) == spec.windows:
                break
            if spec.tokens is not None and tokens > spec.tokens:
                break
        return windows

    def window(self, spec: CalibrationSpec, index: int) -> Window | None:
        """One example as a window; None for one that is no item and longer than `length`.

        Args:
            spec: How it is written.
            index: The example's number in its source.
        """
        document = self.documents[index]
        if self._is_conversation(spec, document):
            return self._conversation(spec, document, index)
        if document.prompt is None:
            raise CalibrationError(
                f"{document.name}: a conversation, and format={spec.format} needs a prompt with "
                "its answer; pass format=chat or plain"
            )
        context = self._context(spec, index)
        chatty = spec.format == "chat" or (document.chat and spec.format == "raw")
        space = "" if chatty else " "
        if not document.options:
            prompt, answer = self._pair(document, context, space + document.text)
            ids = [*prompt, *answer]
            if len(ids) > spec.length:
                return None
            return plain_window(ids, document.name, index, spec.mask, len(prompt))
        pairs = [self._pair(document, context, space + o) for o in document.options]
        return self._item(document, index, pairs)

    def _item(
        self, document: Document, index: int, pairs: Sequence[tuple[list[int], list[int]]]
    ) -> Window:
        ids = list(pairs[0][0])
        spans = []
        for _, option in pairs:
            spans.append((len(ids), len(ids) + len(option)))
            ids += option
        scored = np.zeros(len(ids), dtype=np.bool_)
        scored[spans[0][0] :] = True
        sizes = tuple(len(option.encode()) for option in document.options)
        characters = tuple(len(option) for option in document.options)
        differ = None if characters == sizes else characters
        item = Item(tuple(spans), document.answer, sizes, differ)
        return Window(np.asarray(ids, dtype=np.int64), scored, document.name, index, item)

    def _context(self, spec: CalibrationSpec, index: int) -> str:
        """What stands before the answer: examples and the prompt, as text."""
        document = self.documents[index]
        shots = self._shots_of(spec, index)
        if spec.format == "plain":
            return plain(self._turns(document, shots, asking=True), ask=True)[0]
        if spec.format == "chat" or (document.chat and spec.format == "raw"):
            chat = self._turns(document, shots, asking=True)
            return self.template.question(chat, document.text, document.name)
        before = [f"{self._prompt(shot)} {shot.text}".lstrip() for shot in shots]
        return "\n\n".join([*before, self._prompt(document)])

    @staticmethod
    def _is_conversation(spec: CalibrationSpec, document: Document) -> bool:
        known = spec.format in ("raw", "chat", "plain")
        return document.chat is not None and not document.options and known

    def _shots_of(self, spec: CalibrationSpec, index: int) -> list[Document]:
        return [self.documents[i] for i in self._shots(spec, index)]

    def _shots(self, spec: CalibrationSpec, index: int) -> list[int]:
        """Examples for one prompt: never itself, never one that is held out."""
        if not spec.shots:
            return []
        border = document_border(len(self.documents))
        others = border - (index < border)
        if spec.shots > others:
            raise CalibrationError(
                f"{spec.short()}: shots={spec.shots}, and it has {others} other examples "
                "outside the last tenth, which is held out; lower shots="
            )
        rng = np.random.default_rng([spec.shots_seed, index])
        found: list[int] = rng.choice(others, spec.shots, replace=False).tolist()
        return [place + (place >= index) for place in found]

    def _prompt(self, document: Document) -> str:
        """An item brings its prompt whole; a question is asked as the harness asks GSM8K's."""
        prompt = document.prompt or ""
        return prompt if document.options else QUESTION.format(prompt)

    def _turns(self, document: Document, shots: Sequence[Document], *, asking: bool) -> Chat:
        """The turns of an example behind those of others, its answer left out where it is asked."""
        turns: list[Mapping[str, Any]] = []
        for shot in shots:
            turns += shot.chat.turns if shot.chat and not shot.options else _exchange(shot)
        own = document.chat.turns if document.chat else _exchange(document)
        asked = asking and not document.options if document.chat else asking
        turns += own[:-1] if asked else own
        return Chat(tuple(turns), document.chat.tools if document.chat else ())

    def _conversation(self, spec: CalibrationSpec, document: Document, index: int) -> Window | None:
        """A whole conversation as a window; its own assistant's turns are its answer."""
        shots = self._shots_of(spec, index)
        chat = self._turns(document, shots, asking=False)
        if spec.format == "plain":
            text, spans = plain(chat)
        else:
            text, spans = self.template.render(chat, document.name), []
        if any(thought not in text for turn in chat.turns for thought in thoughts(turn)):
            self.thoughtless.add(index)
        ids = self._encode(text)
        lead = len(with_bos(self.lead, ids)) - len(ids)
        if len(ids) + lead > spec.length:
            return None
        if spec.mask != "answer":
            return plain_window(with_bos(self.lead, ids), document.name, index, spec.mask)
        # Whose the assistant's tokens are, a template does not say.
        plainly = spec.format == "plain" or bool(shots)
        mask = None if plainly else self.template.own_mask(chat, ids)
        if mask is None:
            spans = spans or self.template.answers(chat, text, document.name)
            others = len(chat.turns) - len(document.chat.turns if document.chat else ())
            given = sum(turn["role"] == "assistant" for turn in chat.turns[:others])
            mask = self._tokens_in(text, ids, spans[given:])
        scored = np.asarray([*[False] * lead, *mask], dtype=np.bool_)
        scored[0] = False
        if not scored.any():
            raise CalibrationError(
                f"{document.name}: mask=answer, and the conversation has no assistant's turn; drop "
                "the row, or pass mask=all"
            )
        tokens = np.asarray(with_bos(self.lead, ids), dtype=np.int64)
        return Window(tokens, scored, document.name, index)

    def _tokens_in(
        self, text: str, ids: Sequence[int], spans: Sequence[tuple[int, int]]
    ) -> list[bool]:
        """Which tokens lie in spans of a text, by tokenising it up to their borders."""
        mask = [False] * len(ids)
        for start, end in spans:
            first, alike = _alike(ids, self._encode(text[:start])), self._encode(text[:end])
            # A token that goes on past the end of a turn is the turn's.
            last = _alike(ids, alike)
            last += last < len(alike)
            mask[first:last] = [True] * (last - first)
        return mask

    def _pair(
        self, document: Document, context: str, continuation: str
    ) -> tuple[list[int], list[int]]:
        """Tokens of the context and of its continuation."""
        kept = context.rstrip()
        continuation = context[len(kept) :] + continuation
        if kept:
            prompt, whole = self._encode(kept), self._encode(kept + continuation)
            prompt, answer = with_bos(self.lead, prompt), whole[len(prompt) :]
        else:
            bos = self.tokenizer.bos_token_id
            begin = bos if bos is not None else self.tokenizer.eos_token_id
            if begin is None and not self.lead:
                raise CalibrationError(
                    f"{document.name}: an empty prompt needs a BOS or EOS token to begin with, "
                    "and the model's tokenizer has neither; give a prompt"
                )
            prompt, answer = list(self.lead or [begin]), self._encode(continuation)
        if not answer:
            raise CalibrationError(
                f"{document.name}: {continuation.strip()!r:.60} has no token of its own behind "
                "its prompt; mend or drop it"
            )
        return prompt, answer

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids


def notes_of_pools(pools: Sequence[Any]) -> tuple[str, ...]:
    """What should be known of the windows that pools gave, each thing once.

    Args:
        pools: Of examples, or of text.
    """
    notes: dict[str, None] = {}
    fits: list[bool] = []
    thoughtless = 0
    for pool in pools:
        if isinstance(pool, ExamplePool):
            fits += pool.fits.values()
            thoughtless += len(pool.thoughtless)
            notes |= dict.fromkeys(pool.template.notes if "template" in pool.__dict__ else ())
        else:
            notes |= dict.fromkeys(getattr(pool, "notes", ()))
    if long := fits.count(False):
        notes[
            f"{long:,} of the {len(fits):,} examples looked at are longer than length= and are "
            "left out; raise it to have them"
        ] = None
    if thoughtless:
        notes[
            f"{thoughtless:,} of the {len(fits):,} examples looked at are read without all that "
            "the assistant thinks (reasoning_content, <think>), which is left out as they are "
            "written; format=plain has what stands in their contents"
        ] = None
    return tuple(notes)


def _exchange(document: Document) -> list[Mapping[str, Any]]:
    """A prompt and its answer as two turns."""
    return [
        {"role": "user", "content": document.prompt or ""},
        {"role": "assistant", "content": document.text},
    ]


def _alike(ids: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    for place, (one, two) in enumerate(zip(ids, other, strict=False)):
        if one != two:
            return place
    return min(len(ids), len(other))
