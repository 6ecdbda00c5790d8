"""What a checkpoint's last layer is for, by its tensors and its architecture together.

A reward model, a classifier or an embedding model has the blocks of a language model and another
head, or none. Surgery cuts them all alike; a search needs a language model's losses. Neither one
field nor one tensor tells: a fine-tuned model may keep its base's architecture in its config, and a
value head may stand beside a language model's.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from depthprune.checkpoints.checkpoint import Checkpoint
from depthprune.errors import ModelError

_LANGUAGE = re.compile(
    r"(^|\.)(lm_head|embed_out|output_layer|output_projection|generator|cls\.predictions|head)\."
)
_OTHER = re.compile(
    r"(^|\.)(score|scores|classifier|classification_head|qa_outputs|reward_head|rm_head|"
    r"regression_head|value_head|v_head|ranking_head)\.|(^|\.)(score|classifier)$"
)
_OTHER_NAMES = re.compile(
    r"For(Sequence|Token)Classification|ForQuestionAnswering|ForRewardModel|RewardModel$|"
    r"ForMultipleChoice|ForTextEncoding"
)
_HEADED = re.compile(
    r"For(SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice)"
)
_BARE = re.compile(r"(?<!LMHead)Model$")


def other_head(checkpoint: Checkpoint) -> str | None:
    """What a checkpoint is, in words, where it is no language model.

    Args:
        checkpoint: An open one.

    Returns:
        None for a language model, and where nothing can be told.
    """
    named = checkpoint.config.get("architectures")
    names = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    first = names[0] if names else ""
    outside = _outside(checkpoint)
    if not outside or any(map(_LANGUAGE.search, outside)):
        return None
    found = next(filter(_OTHER.search, outside), None)
    if found is not None:
        return f"a classifier or reward model ({first or 'no architecture named'}, with {found})"
    if _OTHER_NAMES.search(first):
        return f"a classifier or reward model ({first})"
    tied = {checkpoint.config.get("tie_word_embeddings"), _text(checkpoint, "tie_word_embeddings")}
    if _BARE.search(first) and tied <= {False, None} and False in tied:
        return f"a model without a language head ({first})"
    return None


def other_loader(checkpoint: Checkpoint) -> str | None:
    """The automatic class of transformers that loads what is no language model; None of one.

    Args:
        checkpoint: An open one.
    """
    if other_head(checkpoint) is None:
        return None
    named = str(checkpoint.config.get("architectures"))
    kind = _HEADED.search(named)
    if kind is not None:
        return f"AutoModelFor{kind[1]}"
    bare = not any(map(_OTHER.search, _outside(checkpoint)))
    return "AutoModel" if bare else "AutoModelForSequenceClassification"


def _text(checkpoint: Checkpoint, name: str) -> object:
    return checkpoint.text_config.get(name)


def _outside(checkpoint: Checkpoint) -> Collection[str]:
    """Names of the tensors that belong to no block."""
    return [name for name in checkpoint.tensors if not re.search(r"\.\d+\.", name)]


def require_language_model(name: str, checkpoint: Checkpoint | None) -> None:
    """Refuse, before text or weights are read, what no loss over tokens can be computed of.

    Args:
        name: What the user wrote.
        checkpoint: Its files; None for a GGUF, which holds a language model.

    Raises:
        ModelError: If it is no language model.
    """
    what = other_head(checkpoint) if checkpoint is not None and checkpoint.shards else None
    if what is not None:
        raise ModelError(
            f"{name}: is {what}, and a search needs a causal language model; search its base, and "
            "cut this one by depthprune apply --remove"
        )
