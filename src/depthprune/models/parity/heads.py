"""Parity of what is no language model: a classifier, a reward model, a model without a head.

Its own outputs are compared, whatever they are, with those of the original, the blocks skipped in
place. It generates nothing, so nothing is generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import ParityError, first_line
from depthprune.manifest import ParityRecord
from depthprune.models.auto_class import headed_class, read_config
from depthprune.models.blocks.recording import patched
from depthprune.models.blocks.replay import relative_difference
from depthprune.models.pretrained import quiet_transformers
from depthprune.models.probe_tokens import probe_tokens
from depthprune.models.widening import FLOAT32_LIMIT, WIDER, widened

_WINDOWS, _LENGTH = 4, 48


def verify_headed(
    original: Path,
    pruned: Path,
    removed: Sequence[int],
    prefix: str,
    *,
    trust_remote_code: bool = False,
) -> ParityRecord:
    """Compare the outputs of a cut with those of its original, in float32.

    Args:
        original: Its folder.
        pruned: The folder of the cut.
        removed: The blocks that it lacks.
        prefix: What the names of the blocks' tensors begin with.
        trust_remote_code: Whether the model's own Python code may run.

    Raises:
        ParityError: If one does not load or they differ, saying in what.
    """
    whole, before = _load(original, trust_remote_code)
    cut, after = _load(pruned, trust_remote_code)
    for kind, keys in after.items():
        if more := sorted(keys - before[kind]):
            raise ParityError(
                f"the written checkpoint has {len(more)} {kind.replace('_', ' ')} that the "
                f"original has not, such as {more[0]}; nothing was kept"
            )
    blocks = _blocks(whole, prefix)
    tokens = probe_tokens(whole, (_WINDOWS, _LENGTH), seed=0)
    skipped = dict.fromkeys((blocks[i] for i in removed), _pass_on(blocks, tokens, whole))
    inside = list(_blocks(cut, prefix))
    difference, theirs, dtype = float("nan"), torch.empty(0), WIDER[0]
    for dtype in WIDER:
        with widened(whole, list(blocks), dtype), patched(skipped):
            theirs = _outputs(whole, tokens)
        with widened(cut, inside, dtype):
            difference = relative_difference(_outputs(cut, tokens), theirs)
        if difference <= FLOAT32_LIMIT:
            break
    word = str(dtype).removeprefix("torch.")
    if not difference <= FLOAT32_LIMIT:
        raise ParityError(
            f"the written checkpoint's outputs differ from the masked model's by {difference:.1e} "
            f"of their scale in {word} (limit {FLOAT32_LIMIT:.0e}); nothing was kept"
        )
    scale = theirs.abs().max().item()
    return ParityRecord(
        dtype=word,
        tokens=tokens.numel(),
        logits_scale=scale,
        logits_difference=difference * scale,
        bitwise=difference == 0.0,
        generated_tokens=0,
    )


def _load(folder: Path, trust_remote_code: bool) -> tuple[nn.Module, dict[str, set[str]]]:
    try:
        with quiet_transformers():
            config = read_config(folder, trust_remote_code=trust_remote_code)
            module, info = headed_class(config).from_pretrained(
                str(folder),
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
    except Exception as error:
        raise ParityError(f"{folder}: does not load ({first_line(error, 300)})") from error
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    return module.eval(), {kind: {str(key) for key in info.get(kind) or ()} for kind in kinds}


def _blocks(module: nn.Module, prefix: str) -> nn.ModuleList:
    """The list whose name is that of the tensors, but for what a head puts before it."""
    stem = prefix.rstrip(".")
    for name, child in module.named_modules():
        fits = f".{name}".endswith(f".{stem}") or f".{stem}".endswith(f".{name}")
        if name and isinstance(child, nn.ModuleList) and fits:
            return child
    raise ParityError(f"{type(module).__name__}: has no list of blocks called {stem}")


def _pass_on(blocks: nn.ModuleList, tokens: Tensor, module: nn.Module) -> Any:
    """A forward that passes on what it is given, in the form that the blocks answer in."""
    forms: list[Any] = []
    handle = blocks[0].register_forward_hook(lambda block, given, output: forms.append(output))
    try:
        _outputs(module, tokens[:1])
    finally:
        handle.remove()
    bare = isinstance(forms[0], Tensor)

    def forward(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        return states if bare else (states, *(None for _ in forms[0][1:]))

    return forward


@torch.inference_mode()
def _outputs(module: nn.Module, tokens: Tensor) -> Tensor:
    """What comes out, each window by itself: without a padding token some take no more."""
    rows = []
    for window in tokens:
        output = module(input_ids=window[None])
        found = output.get("logits")
        if found is None:
            found = output.get("start_logits", output.get("last_hidden_state"))
        rows.append(found.flatten())
    return torch.stack(rows)
