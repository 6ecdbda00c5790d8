"""Models whose blocks hand on more than hidden states are scored, measured and streamed alike."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch import Tensor

import depthprune as dp
from depthprune.evaluator.state_store import StateStore
from depthprune.models.blocks.carried import Carried
from depthprune.models.loading import Model
from tiny import save_tiny
from versions import needs_transformers_5

TYPES = {
    "gemma3n_text": (1, 4),
    "gemma4_text": (1, 2, 4),
    "glm_moe_dsa": (2, 3),
    "hy_v4": (1,),
    "xlnet": (2, 5),
    "zaya": (1, 4),
}
STREAMED = (
    # Transformers 4 writes it as the language model of one that sees.
    pytest.param("gemma3n_text", marks=needs_transformers_5),
    "gemma4_text",
    "xlnet",
)
TEXT = "The mill stands by the water, and nobody works there now; a child wades across it. " * 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("carried")
    (made / "text.txt").write_text(TEXT, encoding="utf-8")
    return made


def _loaded(folder: Path, model_type: str, **how: bool) -> tuple[Model, dp.Calibration]:
    if not (folder / model_type).exists():
        save_tiny(folder / model_type, model_type)
    model = dp.load(folder / model_type, dtype="float32", device="cpu", **how)
    spec = f"text:{folder}/text.txt,windows=5,length=21,seed=0"
    return model, dp.calibrate(spec, model)


@torch.inference_mode()
def _plain(model: Model, calibration: dp.Calibration, removed: tuple[int, ...]) -> float:
    """The slow reference: the mean over windows of the NLL of the model that skips the blocks."""
    losses = []
    with model.anatomy.masked(removed) as module:
        for window in calibration.windows:
            tokens = torch.from_numpy(window.tokens)[None]
            logits = module(input_ids=tokens, use_cache=False).logits[0, :-1]
            losses.append(torch.nn.functional.cross_entropy(logits.double(), tokens[0, 1:]))
    return torch.stack(losses).mean().item()


@pytest.mark.parametrize("model_type", TYPES)
def test_scores_are_those_of_plain_masked_forwards(folder: Path, model_type: str) -> None:
    model, calibration = _loaded(folder, model_type)
    sets = [(), (1,), TYPES[model_type]]
    for score in dp.Evaluator(model, calibration).score(sets):
        assert score.loss == pytest.approx(_plain(model, calibration, score.removed), abs=1e-5)


@pytest.mark.parametrize("model_type", STREAMED)
def test_a_streamed_model_gives_the_same_losses_with_its_states_in_a_file(
    folder: Path, model_type: str
) -> None:
    held, calibration = _loaded(folder, model_type)
    streamed, again = _loaded(folder, model_type, stream=True)
    sets = [(), (1,), (0, 1), TYPES[model_type]]
    evaluator = dp.Evaluator(streamed, again)
    evaluator._runner.forward._budget = 4096
    theirs = [score.loss for score in dp.Evaluator(held, calibration).score(sets)]
    assert [score.loss for score in evaluator.score(sets)] == pytest.approx(theirs, abs=1e-6)


def test_a_set_without_what_a_kept_block_reads_has_an_infinite_loss(folder: Path) -> None:
    model, calibration = _loaded(folder, "gemma4_text")
    lender, both = dp.Evaluator(model, calibration).score([(2,), (2, 4)])
    assert lender.loss == float("inf")
    assert both.loss < float("inf")
    why = model.refusal((2,))
    assert why is not None
    assert "block 4 reads the keys and values of block 2" in why


def test_a_search_takes_no_set_that_cannot_run(folder: Path) -> None:
    model, calibration = _loaded(folder, "gemma4_text")
    result = dp.search("greedy", dp.Evaluator(model, calibration), k=2)
    assert model.refusal(result.removed) is None
    assert result.score.loss == pytest.approx(_plain(model, calibration, result.removed), abs=1e-5)


@pytest.mark.parametrize("model_type", ["gemma3n_text", "gemma4_text", "zaya"])
def test_taylor_is_the_gradient_through_everything_that_is_handed_on(
    folder: Path, model_type: str
) -> None:
    model, calibration = _loaded(folder, model_type)
    gates = dp.Evaluator(model, calibration).measure("taylor")
    assert gates == pytest.approx(_gates(model, calibration), rel=1e-3, abs=1e-5)


def _gates(model: Model, calibration: dp.Calibration) -> list[float]:
    """The slow reference: gates of one in the whole model, and a backward pass through it."""
    ones = [torch.ones((), requires_grad=True) for _ in range(model.blocks)]

    def gated(place: int):  # type: ignore[no-untyped-def]
        def hook(module, args, output):  # type: ignore[no-untyped-def]
            first = output if isinstance(output, Tensor) else output[0]
            changed = args[0] + ones[place] * (first - args[0])
            return changed if isinstance(output, Tensor) else (changed, *output[1:])

        return hook

    handles = [
        block.register_forward_hook(gated(place))
        for place, block in enumerate(model.anatomy.blocks.modules)
    ]
    total = torch.zeros(())
    for window in calibration.windows:
        tokens = torch.from_numpy(window.tokens)[None]
        logits = model.module(input_ids=tokens, use_cache=False).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(logits, tokens[0, 1:])
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(total / len(calibration.windows), ones)
    return [abs(each.item()) for each in gradients]


def test_a_vault_gives_back_what_is_carried_from_memory_and_from_the_file() -> None:
    numbers = iter(range(100))

    def some(*shape: int) -> Tensor:
        return torch.full(shape, float(next(numbers)))

    states = [Carried(some(2, 3), {"kv": {"a": (some(4), some(5))}, "x": some(1)}) for _ in "123"]
    store = StateStore(budget=64)
    held = [store.put(state) for state in states]
    assert store.written > 0
    for each, state in zip(held, states, strict=True):
        found = each.get()
        assert isinstance(found, Carried)
        assert torch.equal(found.states, state.states)
        assert torch.equal(found.rest["kv"]["a"][1], state.rest["kv"]["a"][1])
        assert torch.equal(found.rest["x"], state.rest["x"])
    del held, each
    gc.collect()
    assert store.in_memory == 0
    store.close()
