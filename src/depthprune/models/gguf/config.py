"""The config of a GGUF, with what the file states and transformers' loader passes over.

The loader gives every field that it does not know the value of its type's smallest model. What
follows from such a field shows in no comparison of a cut with its original, for both would be read
so; it shows beside llama.cpp, which computes what the file says. The same holds for a tensor that
the loader has no name for, so all that is stored must be in the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from depthprune.checkpoints.gguf.file import GgufFile
from depthprune.checkpoints.gguf.reader import read_gguf
from depthprune.errors import ModelError, first_line
from depthprune.models.gguf.positions import stated_positions
from depthprune.models.gguf.unpacking import quick_gguf

_BY_WIDTH = {"gemma2": 46, "gemma3": 62}
"""Blocks of the one Gemma whose attention is scaled by the model's width, divided by its heads;
llama.cpp scales that of the others by the width of a head."""

_TIED = frozenset({"bloom", "falcon"})
"""Those whose files hold the embeddings a second time, as their head."""


def config_of(path: Path) -> Any:
    """The config that transformers makes of a GGUF, completed.

    Args:
        path: The file.

    Raises:
        ModelError: If there is none, or it has no words for what the file states.
    """
    from transformers import AutoConfig

    file = read_gguf(path)
    told = stated_positions(file)
    try:
        with quick_gguf():
            config = AutoConfig.from_pretrained(
                str(path.parent), gguf_file=path.name, local_files_only=True
            )
    except Exception as error:
        raise ModelError(
            f"{path}: transformers cannot load it ({first_line(error, 300)})"
        ) from error
    _refuse_more_blocks(file, config)
    for tensor in file.tensors:
        if tensor.name == "token_embd.weight":
            # Read off a tokenizer in the file, and it may lie beside it.
            config.get_text_config().vocab_size = tensor.shape[-1]
    if told:
        _rotate(config, told)
    if file.architecture in _BY_WIDTH:
        config.query_pre_attn_scalar = _scaled_by(file, config)
    if windows := _windows(file):
        config.layer_types = windows
    return config


def _refuse_more_blocks(file: GgufFile, config: Any) -> None:
    """Layers that predict further tokens are counted among a file's blocks."""
    found = config.get_text_config().num_hidden_layers
    if found != file.blocks:
        raise ModelError(
            f"{file.path}: holds {file.blocks} blocks and {file.prediction_layers} "
            f"multi-token-prediction layer(s), and transformers makes {found} blocks of them, so "
            "losses would be those of another model; search the folder that it was made from, or "
            "cut it without a search by depthprune apply --remove"
        )


def require_all(path: Path, module: nn.Module) -> None:
    """Refuse a model that lacks some of its file's weights.

    Args:
        path: The GGUF.
        module: What transformers made of it.

    Raises:
        ModelError: If the file holds more.
    """
    file = read_gguf(path)
    tied = file.architecture in _TIED
    stored = sum(
        tensor.elements
        for tensor in file.tensors
        if not (tensor.name.startswith("rope_") or (tied and tensor.name == "output.weight"))
        and not _is_beyond(tensor.name, file.blocks)
    )
    # What is tied has two names; what is on no device has no place.
    known = module.state_dict().values()
    held = {each.data_ptr() or id(each): each.numel() for each in known}
    if stored > sum(held.values()):
        raise ModelError(
            f"{path}: holds {stored:,} weights, and the model that transformers makes of it "
            f"{sum(held.values()):,}; without the others (biases, say) losses would be those of "
            "another model; search the folder that it was made from, or cut it without a search by "
            "depthprune apply --remove"
        )


def _is_beyond(name: str, blocks: int) -> bool:
    """Whether a tensor is of a layer behind the blocks, which predicts further tokens."""
    first, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    return first == "blk" and number.isdecimal() and int(number) >= blocks


def _rotate(config: Any, told: dict[str, Any]) -> None:
    for name in ("partial_rotary_factor", "original_max_position_embeddings"):
        if name in told and hasattr(config, name):
            setattr(config, name, told[name])
    held = getattr(config, "rope_parameters", None)
    if not isinstance(held, dict):  # before transformers 5
        config.rope_scaling = told if "rope_type" in told else config.rope_scaling
    elif isinstance(full := held.get("full_attention"), dict):
        # Of two kinds of attention the one with a window has positions of its own, unscaled.
        config.rope_parameters = held | {"full_attention": full | told}
    else:
        config.rope_parameters = held | told


def _scaled_by(file: GgufFile, config: Any) -> int:
    """What the square root of divides the scores of a Gemma."""
    if file.blocks == _BY_WIDTH[file.architecture]:
        return int(config.hidden_size // config.num_attention_heads)
    return int(config.head_dim)


def _windows(file: GgufFile) -> list[str] | None:
    """Which blocks attend within a window, where the file has it for each of them."""
    pattern = file.get(f"{file.architecture}.attention.sliding_window_pattern")
    if file.architecture not in _BY_WIDTH or not isinstance(pattern, list):
        return None
    return ["sliding_attention" if each else "full_attention" for each in pattern]
