"""Problems that a model answers in its own words: greedy generation and the number it ends with.

A likelihood says how probable an answer is; generation says whether the model gets there, which a
pruned model may not although its perplexity is fair. Prompts are drawn and written as a calibration
of questions and answers is. The number behind the first `####` counts, as GSM8K's answers have it,
else the last number; numbers are compared as numbers. An answer without a number is right if what
is written begins with it, whatever the capitals and spaces. Problems are generated one at a time,
so that no padding changes a bit.
Source: Cobbe et al. 2021 (GSM8K); the harness's `gsm8k` asks the same way and compares texts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from depthprune.calibration import Window
from depthprune.errors import EvaluationError, first_line
from depthprune.models.plain_generation import plain_generation
from depthprune.models.pretrained import quiet_transformers
from depthprune.progress import SILENT, Progress

_NUMBER = re.compile(r"(?:(?<![\d)])-)?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_MARK = "####"


@dataclass(frozen=True)
class AnswerScore:
    """How a set of problems was answered.

    Attributes:
        value: Share whose number is the right one.
        stderr: Of the share, between problems; None of a single one.
        n: Problems.
        unanswered: Problems in whose answer there was nothing to compare, such as no number.
        right: Which were answered right, in their order.
    """

    value: float
    stderr: float | None
    n: int
    unanswered: int
    right: tuple[bool, ...]


def final_number(text: str) -> Decimal | None:
    """The number that a text ends with: the first behind `####`, else its last.

    Args:
        text: An answer. Dollar signs and the commas between thousands are passed over.
    """
    marked = _NUMBER.search(text.partition(_MARK)[2])
    found = [marked.group()] if marked else _NUMBER.findall(text)
    return Decimal(found[-1].replace("$", "").replace(",", "")) if found else None


def is_right(written: str, wanted: str) -> bool:
    """Whether a text that was written gives the answer that is wanted.

    Args:
        written: By a model.
        wanted: With a number, which the text must end with; else what it must begin with.
    """
    number = final_number(wanted)
    if number is not None:
        return final_number(written) == number
    begun, words = (" ".join(text.casefold().split()) for text in (written, wanted.rstrip(".!?")))
    return begun.startswith(words) and not begun[len(words) : len(words) + 1].isalnum()


def nothing_in(written: str, wanted: str) -> bool:
    """Whether there is nothing in a text to hold against the answer that is wanted."""
    if final_number(wanted) is not None:
        return final_number(written) is None
    return not written.strip()


def answer_all(
    module: nn.Module,
    tokenizer: Any,
    windows: Sequence[Window],
    *,
    max_new_tokens: int,
    stop: Sequence[str],
    context: int | None = None,
    progress: Progress = SILENT,
) -> AnswerScore:
    """Let a model answer problems, greedily.

    Args:
        module: A causal language model from transformers.
        tokenizer: Its tokenizer.
        windows: Problems whose scored tokens are the right answers.
        max_new_tokens: Tokens that an answer may have.
        stop: Texts at which an answer ends, besides the model's own end.
        context: Tokens of the longest sequence that the model reads, if it says so.
        progress: Where the work shows itself.

    Raises:
        EvaluationError: If an answer is empty, a prompt leaves no room for one, or the model
            cannot generate.
    """
    right, unanswered = [], 0
    with progress.step("answering problems", len(windows), "problems") as step:
        for window in windows:
            first = int(np.argmax(window.scored))
            wanted = str(tokenizer.decode(window.tokens[first:], skip_special_tokens=True))
            if not wanted.strip():
                raise EvaluationError(f"{window.document}: its answer is empty; drop it")
            room = max_new_tokens if context is None else min(max_new_tokens, context - first)
            if room < 1:
                raise EvaluationError(
                    f"{window.document}: the prompt has {first:,} tokens and the model reads "
                    f"{context:,}; lower shots="
                )
            got = answer(module, tokenizer, window.tokens[:first].tolist(), room, stop)
            right.append(is_right(got, wanted))
            unanswered += nothing_in(got, wanted)
            step.advance()
    share = float(np.mean(right))
    n = len(right)
    stderr = math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else None
    return AnswerScore(share, stderr, n, unanswered, tuple(right))


@torch.inference_mode()
def answer(
    module: Any, tokenizer: Any, prompt: Sequence[int], max_new_tokens: int, stop: Sequence[str]
) -> str:
    """The greedy continuation of a prompt, up to the model's own end or a text that stops it.

    Args:
        module: A causal language model from transformers.
        tokenizer: Its tokenizer.
        prompt: Token ids.
        max_new_tokens: How many tokens it may have.
        stop: Texts that end it and are cut off.

    Raises:
        EvaluationError: If the model cannot generate.
    """
    device = next(module.get_input_embeddings().parameters()).device
    own = module.generation_config.eos_token_id
    ends = own if own is not None else tokenizer.eos_token_id
    ids = torch.tensor([list(prompt)], device=device)

    def stops(written: Tensor, scores: Any, **options: Any) -> Tensor:
        text = tokenizer.decode(written[0, len(prompt) :])
        return torch.tensor([any(each in text for each in stop)], device=written.device)

    try:
        with quiet_transformers(), plain_generation(module, ends=ends):
            written = module.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=max_new_tokens,
                stopping_criteria=[stops],
            )
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise EvaluationError(f"the model cannot generate ({first_line(error)})") from error
    text = str(tokenizer.decode(written[0, len(prompt) :], skip_special_tokens=True))
    return text[: min((place for each in stop if (place := text.find(each)) >= 0), default=None)]
