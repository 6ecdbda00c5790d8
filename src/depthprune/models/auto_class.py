"""Which automatic class of transformers makes the whole of a model.

A checkpoint of several modalities may hold more than its causal language model: read by
`AutoModelForCausalLM`, some types lose their towers, and most are not known to it at all. So the
class is taken whose model bears the name that the config gives as its architecture, and where no
name fits, the first that knows the type.

A config may also name a kernel for its attention or its experts, which transformers would fetch
from a hub and run. It is read without: what a checkpoint computes is in its weights, and code is
run only where the user asked for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

_CLASSES = ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")
"""The last of them is of transformers 5."""

_IMPLEMENTATIONS = {
    "_attn_implementation": ("eager", "sdpa"),
    "_experts_implementation": ("eager", "batched_mm", "grouped_mm"),
}
"""What a config may choose: these are of transformers itself, and need nothing but torch."""


_HEADED = (
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForMultipleChoice",
    "AutoModel",
)


def automatic_class(config: Any) -> Any:
    """The automatic class for a config from transformers.

    Args:
        config: As `AutoConfig.from_pretrained` gave it.

    Returns:
        A class with `from_pretrained` and `from_config`; `AutoModelForCausalLM` for a type that
        none of them knows, whose message then says so.
    """
    import transformers

    classes = [getattr(transformers, name, None) for name in _CLASSES]
    fitting = {c: names for c in classes if c is not None and (names := _names(c, config))}
    for architecture in getattr(config, "architectures", None) or ():
        for found, names in fitting.items():
            if architecture in names:
                return found
    return next(iter(fitting), transformers.AutoModelForCausalLM)


def headed_class(config: Any) -> Any:
    """The automatic class for a model with another head than a language model's, or none.

    Args:
        config: As `AutoConfig.from_pretrained` gave it.

    Returns:
        The class whose model bears the architecture's name; a sequence classifier's where none
        is named.
    """
    import transformers

    named = getattr(config, "architectures", None) or ()
    for name in _HEADED:
        found = getattr(transformers, name)
        if any(architecture in _names(found, config) for architecture in named):
            return found
    for name in getattr(config, "auto_map", None) or ():
        if name in _HEADED:
            return getattr(transformers, name)
    return transformers.AutoModelForSequenceClassification


def needs_code(config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's model is made by Python code that comes with it alone.

    A type may be older than transformers' own code for it, and its first checkpoints still name the
    code that they came with. Where that may not run, transformers takes its own class.

    Args:
        config: The whole of `config.json`.
    """
    stated = config.get("auto_map", {})
    if not isinstance(stated, Mapping):
        return True
    models = [name for key, name in stated.items() if key.startswith(("AutoConfig", "AutoModel"))]
    return any(_type_made(name) != config.get("model_type") for name in models)


def _type_made(name: object) -> object:
    """The type of transformers' own config, or of its own model, that bears a class's name."""
    import transformers

    with suppress(KeyError, AttributeError, ImportError, RuntimeError):
        found = getattr(transformers, _own_names()[str(name).rpartition(".")[2].casefold()])
        return getattr(getattr(found, "config_class", found), "model_type", "")
    return ""


@cache
def _own_names() -> Mapping[str, str]:
    """Names that transformers has, by their letters: it made Phimoe of PhiMoE, and Mpt of MPT."""
    import transformers

    return {name.casefold(): name for name in dir(transformers)}


def _names(automatic: Any, config: Any) -> tuple[str, ...]:
    """Names of the models that an automatic class makes of this config."""
    mapping = automatic._model_mapping
    if type(config) not in mapping:
        return ()
    made = mapping[type(config)]
    return tuple(each.__name__ for each in (made if isinstance(made, (tuple, list)) else (made,)))


def read_config(place: Path, *, trust_remote_code: bool = False) -> Any:
    """A checkpoint's config, as transformers reads it, without kernels that would be fetched.

    Args:
        place: A folder with a `config.json`.
        trust_remote_code: Whether the model's own Python code may run.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        str(place), local_files_only=True, trust_remote_code=trust_remote_code
    )
    _choose_nothing_foreign(config)
    return config


def _choose_nothing_foreign(config: Any) -> None:
    for name, own in _IMPLEMENTATIONS.items():
        if getattr(config, name, None) not in (None, *own):
            setattr(config, name, None)
    for name in getattr(config, "sub_configs", None) or ():
        if (section := getattr(config, name, None)) is not None:
            _choose_nothing_foreign(section)


def automatic_class_of(place: Path, *, trust_remote_code: bool = False) -> Any:
    """The automatic class for a checkpoint folder or a GGUF file.

    Args:
        place: A folder with a `config.json`; or a file, which holds a causal language model alone.
        trust_remote_code: Whether the model's own Python code may run.
    """
    from transformers import AutoModelForCausalLM

    if place.is_file():
        return AutoModelForCausalLM
    return automatic_class(read_config(place, trust_remote_code=trust_remote_code))
