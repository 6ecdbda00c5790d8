"""What a model can read: how long a sequence, and which tokens.

A model whose files alone were read says it as well as one that is loaded, so that a calibration can
be refused before any weights are.
"""

from __future__ import annotations

from typing import Any, Protocol

from depthprune.checkpoints.config.sections import context_length


class HasTokenizer(Protocol):
    """A loaded model, or a model's files: anything that carries a tokenizer."""

    @property
    def tokenizer(self) -> Any:
        """A tokenizer from transformers."""


def context_of(model: HasTokenizer) -> int | None:
    """Tokens of the longest sequence that a model reads, if it says so."""
    module = getattr(model, "module", None)
    if module is not None:
        return context_length(module.config.get_text_config())
    found = getattr(model, "context", None) or getattr(model.tokenizer, "model_max_length", None)
    # A tokenizer that knows no limit says about 10 to the 30th.
    return found if isinstance(found, int) and 0 < found < 2**31 else None


def rows_of(model: HasTokenizer) -> int | None:
    """Rows of a model's embedding, if they are known; ids are below it."""
    module = getattr(model, "module", None)
    if module is None:
        found = getattr(model, "rows", None)
    else:
        try:
            found = getattr(module.get_input_embeddings(), "num_embeddings", None)
        except (AttributeError, NotImplementedError):
            found = None
    return found if isinstance(found, int) and found > 0 else None
