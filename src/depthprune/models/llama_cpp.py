"""Speculative decoding of two GGUF files in llama.cpp, through llama-cpp-python.

Its `draft_model` is anything that is called with the tokens so far and answers with drafted ones;
here a second model answers with those that it finds likeliest. llama.cpp draws the model's own
token at each drafted place, and takes the drafted one where they are the same: so a drafted token
is taken as often as the model itself would have written it, which by sampling is less than the
Σ min(p, q) of a draft that samples too, and what is written is the seed's own text even then.

The model is held twice, once as its users would load it, and once with the logits of all places,
which a draft needs and which take time. Both read the same mapped file.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthprune.errors import ModelError, UsageError, first_line
from depthprune.models.assisted import Continuation, DraftCounts


def require_llama_cpp() -> Any:
    """The module `llama_cpp`.

    Raises:
        UsageError: If it is not installed or cannot be loaded.
    """
    try:
        return import_module("llama_cpp")
    except ModuleNotFoundError as missing:
        why = "which is not installed"
        cause: BaseException = missing
    except Exception as broken:
        why = f"which cannot be loaded ({first_line(broken)})"
        cause = broken
    raise UsageError(
        f"--draft of two GGUF files: needs llama-cpp-python, {why}; run: pip install "
        "'depthprune[llama]' (it is compiled, which takes a C++ compiler and minutes), or pass "
        "--runtime transformers"
    ) from cause


class Drafter:
    """What llama-cpp-python calls a draft model: the likeliest tokens of another model.

    Args:
        model: A `Llama`.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._counts = DraftCounts(1)
        self._end = 0
        self._from: int | None = None

    def begin(self, counts: DraftCounts, end: int) -> None:
        """Draft for a new text.

        Args:
            counts: Told what becomes of the drafts.
            end: Tokens of the whole text; nothing is drafted beyond it.
        """
        self._model.reset()
        self._counts, self._end, self._from = counts, end, None

    def __call__(self, input_ids: NDArray[np.intc], /, **_: Any) -> NDArray[np.intc]:
        """Tokens that may follow."""
        place = len(input_ids)
        self._settle(place)
        # The model adds a token of its own to those that it takes.
        wanted = min(self._counts.length, self._end - place - 1)
        if wanted < 1:
            return np.zeros(0, dtype=np.intc)
        likeliest = self._model.generate(input_ids.tolist(), temp=0.0, repeat_penalty=1.0)
        drafted = np.fromiter(islice(likeliest, wanted), dtype=np.intc)
        self._counts.offered.append(len(drafted))
        self._from = place
        return drafted

    def finish(self) -> None:
        """Count what became of the last draft; the text is at its end."""
        self._settle(self._end)

    def _settle(self, place: int) -> None:
        if self._from is not None:
            self._counts.taken.append(place - self._from - 1)
        self._from = None


class LlamaCppPair:
    """A model and its draft in llama.cpp.

    Args:
        files: Of the model and of its draft.
        context: Tokens of the longest text.
        device: `cpu`, or `auto` for the accelerator that llama.cpp was built for, if for one.
        threads: That compute.

    Raises:
        UsageError: If llama-cpp-python is not installed.
        ModelError: If a file cannot be loaded, or a model cannot take tokens back.
    """

    runtime = "llama.cpp"
    dtype: str | None = None

    def __init__(self, files: Sequence[Path], context: int, *, device: str, threads: int) -> None:
        self._llama_cpp = require_llama_cpp()
        settings = {
            "n_ctx": context,
            "n_gpu_layers": 0 if device == "cpu" else -1,
            "n_threads": threads,
            "n_threads_batch": threads,
            # What a window has left behind could not be taken back.
            "swa_full": True,
            "verbose": False,
        }
        self._alone = [self._load(file, settings) for file in files]
        self._drafter = Drafter(self._alone[1])
        self._assisted = self._load(files[0], {**settings, "draft_model": self._drafter})

    def _load(self, file: Path, settings: dict[str, Any]) -> Any:
        try:
            model = self._llama_cpp.Llama(str(file), **settings)
        except (ValueError, RuntimeError) as error:
            raise ModelError(
                f"{file}: llama.cpp cannot load it ({first_line(error)}); take a newer "
                "llama-cpp-python, or pass --runtime transformers"
            ) from error
        kinds = (self._llama_cpp.llama_model_is_recurrent, self._llama_cpp.llama_model_is_hybrid)
        if any(is_kind(model.model) for is_kind in kinds):
            raise ModelError(
                f"{file}: its blocks carry a state from token to token, and llama.cpp cannot take "
                "back a drafted one; pass --runtime transformers"
            )
        return model

    def write(
        self,
        which: int,
        prompt: Sequence[int],
        new_tokens: int,
        *,
        drafted: DraftCounts | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Continuation:
        """See `Pair.write`."""
        model = self._alone[which] if drafted is None else self._assisted
        model.reset()
        model.set_seed(seed)
        if drafted is not None:
            self._drafter.begin(drafted, len(prompt) + new_tokens)
        began = time.perf_counter()
        written = model.generate(
            list(prompt), temp=temperature, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0
        )
        tokens = tuple(int(token) for token in islice(written, new_tokens))
        seconds = time.perf_counter() - began
        if drafted is not None:
            self._drafter.finish()
        return Continuation(tokens, seconds)

    def log_odds(self, before: Sequence[int], first: int, second: int) -> float:
        """See `Pair.log_odds`."""
        self._assisted.reset()
        self._assisted.eval(list(before))
        logits = self._assisted.scores[len(before) - 1]
        return abs(float(logits[first]) - float(logits[second]))

    def close(self) -> None:
        """Let go of the models."""
        for model in (self._assisted, *self._alone):
            model.close()
