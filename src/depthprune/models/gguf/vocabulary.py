"""Whether a tokenizer is the one of a GGUF, which transformers does not ask.

Where a tokenizer's files lie beside a GGUF, transformers reads those and not the file's own. That
is of use where it cannot read the file's own. But a folder of GGUFs holds many models, and under
the numbers of another one's vocabulary every loss would be of noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from depthprune.checkpoints.gguf.reader import read_gguf, read_strings
from depthprune.errors import ModelError

_FILES = ("tokenizer*", "vocab*", "merges*", "tekken*", "spiece*", "*.tiktoken")

_OTHERS = 0.1
"""Of a vocabulary. A converter rewrites a few added tokens; another vocabulary agrees in hardly any
number."""


def require_own_tokens(path: Path, tokenizer: Any) -> None:
    """Refuse a tokenizer that numbers other tokens than the file does.

    Args:
        path: The GGUF; one without a tokenizer tells nothing, and none is read where no such file
            lies beside it.
        tokenizer: What transformers read.

    Raises:
        ModelError: If it is another model's.
    """
    if not any(any(path.parent.glob(pattern)) for pattern in _FILES):
        return
    stated = dict(enumerate(read_strings(read_gguf(path), "tokenizer.ggml.tokens")))
    numbered = tokenizer.get_vocab()
    others = sum(stated.get(number) != token for token, number in numbered.items())
    if stated and others > _OTHERS * len(numbered):
        raise ModelError(
            f"{path}: the tokenizer's files beside it are of another model, "
            f"{others:,} of their {len(numbered):,} tokens are not the file's; move them or the "
            "file into another folder"
        )
