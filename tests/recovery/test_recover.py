"""Recovery gives back what a linear map can, says what it left, and leaves the model as it was."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

import depthprune as dp
from depthprune.errors import CalibrationError, EvaluationError, ModelError, UsageError
from depthprune.evaluator.state_store import StateStore
from depthprune.models.blocks.anatomy import Anatomy
from depthprune.objectives import parse_objective
from depthprune.recovery import Linear, RecoveringRehearsal, RecoveringScorer
from depthprune.recovery.linear.fold import swapped
from depthprune.recovery.linear.fold_target import find_fold_target
from depthprune.recovery.linear.massive_activations import massive
from depthprune.recovery.result import new_weights, runs_of
from hostile import hostile_arithmetic
from mended import drawn, loaded, logits, planted, states, tokens_of

MAPS = Linear(refit="none", fit="outputs")
GAPS = Linear(refit="none")


def test_a_block_that_is_linear_in_the_mlp_output_is_recovered(tmp_path: Path) -> None:
    model = planted()
    calibration = drawn(tmp_path, model, windows=48)
    recovery = dp.recover(model, [3], calibration)
    text = torch.cat(tokens_of(calibration, chooses=True))
    dense = logits(model, text)
    assert (logits(model, text, [3]) - dense).abs().max() > 0.1
    with dp.recovered(model, recovery):
        torch.testing.assert_close(logits(model, text, [3]), dense, rtol=1e-4, atol=1e-4)
    assert recovery.runs[0].after < 1e-4 * recovery.runs[0].before


def test_the_error_that_is_told_is_that_of_the_recovered_model(tmp_path: Path) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    removed = (1, 3, 4)
    recovery = dp.recover(model, removed, calibration)
    assert [(run.blocks, run.into) for run in recovery.runs] == [((1,), 0), ((3, 4), 2)]
    for run in recovery.runs:
        gone = [block for block in removed if block <= run.blocks[-1]]
        means = []
        for part in range(2):
            texts = tokens_of(calibration, chooses=True)[3 * part : 3 * part + 3]
            with dp.recovered(model, recovery):
                ours = torch.cat([states(model, t, run.into, gone) for t in texts])
            theirs = torch.cat([states(model, t, run.blocks[-1]) for t in texts])
            means.append((theirs - ours).pow(2).mean().item())
        assert (0.75 * means[0] + 0.25 * means[1]) ** 0.5 == pytest.approx(run.after, rel=1e-5)
        assert run.after < run.before


def test_states_that_memory_does_not_hold_wait_in_a_file_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    held = dp.recover(model, (1, 3, 4), calibration)
    stores: list[StateStore] = []

    def small(budget: int, host: int) -> StateStore:
        stores.append(StateStore(4096, host))
        return stores[0]

    monkeypatch.setattr(sys.modules["depthprune.recovery.recover"], "StateStore", small)
    filed = dp.recover(model, (1, 3, 4), calibration)
    assert stores[0].written > 0
    assert stores[0]._file is None
    assert filed.runs == held.runs
    for name, weight in held.weights.items():
        assert torch.equal(filed.weights[name], weight)


def test_a_fit_equals_plain_least_squares_over_all_activations(tmp_path: Path) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    recovery = dp.recover(model, [1, 4], calibration, MAPS)
    first, second = recovery.changes
    block = model.anatomy.blocks.modules[3]
    nothing = {"mlp.down_proj.weight": torch.zeros_like(block.mlp.down_proj.weight)}
    texts = tokens_of(calibration, chooses=False)
    dense = [states(model, text, 4) for text in texts]
    with swapped(model.module, new_weights(model.anatomy, first)):
        rows, lacks = [], []
        for place, text in enumerate(texts):
            out = states(model, text, 3, [1])
            with swapped(block, nothing):
                added = out - states(model, text, 3, [1])
            share = (0.75, 0.25)[place // 9] ** 0.5
            rows.append(share * added)
            lacks.append(share * (dense[place] - out))
    m, e = torch.cat(rows), torch.cat(lacks)
    run = recovery.runs[1]
    penalty = (run.ridge * m.pow(2).sum() / 32).sqrt() * torch.eye(32)
    found = torch.linalg.lstsq(
        torch.cat([m, penalty]), torch.cat([e, torch.zeros(32, 32)])
    ).solution.T
    torch.testing.assert_close(second.matrix, run.strength * found, rtol=1e-4, atol=1e-4)


def test_recovery_lowers_the_loss_on_text_that_was_not_fitted(tmp_path: Path) -> None:
    model = planted()
    calibration = drawn(tmp_path, model, windows=48)
    recovery = dp.recover(model, [3], calibration)
    held_out = calibration.held_out()[0]
    dense, before = dp.Evaluator(model, held_out).score([(), (3,)])
    with dp.recovered(model, recovery):
        after = dp.Evaluator(model, held_out).score([(3,)])[0]
    assert abs(after.loss - dense.loss) < 1e-4 < abs(before.loss - dense.loss)


def test_the_model_comes_back_as_it_was(tmp_path: Path) -> None:
    model = loaded()
    before = {name: p.clone() for name, p in model.module.named_parameters()}
    recovery = dp.recover(model, [1, 3], drawn(tmp_path, model), GAPS)
    with dp.recovered(model, recovery):
        changed = {n for n, p in model.module.named_parameters() if not torch.equal(p, before[n])}
    assert (
        changed
        == set(recovery.weights)
        == {
            "model.layers.0.mlp.down_proj.weight",
            "model.layers.2.mlp.down_proj.weight",
        }
    )
    assert all(torch.equal(before[name], p) for name, p in model.module.named_parameters())


def test_a_run_that_did_nothing_changes_no_weight(tmp_path: Path) -> None:
    model = loaded()
    with torch.no_grad():
        model.module.model.layers[2].self_attn.o_proj.weight.zero_()
        model.module.model.layers[2].mlp.down_proj.weight.zero_()
    recovery = dp.recover(model, [2], drawn(tmp_path, model))
    assert recovery.weights == {}
    assert (recovery.runs[0].strength, recovery.runs[0].before) == (0.0, 0.0)
    assert "no change came nearer" in (recovery.runs[0].why_not or "")


def test_an_mlp_that_adds_nothing_makes_a_singular_system(tmp_path: Path) -> None:
    model = loaded()
    with torch.no_grad():
        model.module.model.layers[1].mlp.down_proj.weight.zero_()
    calibration = drawn(tmp_path, model)
    (run,) = dp.recover(model, [2], calibration, MAPS).runs
    assert dp.recover(model, [2], calibration, GAPS).runs[0].strength > 0  # it may add something
    assert "block 1 adds nothing, so the system is singular" in (run.why_not or "")
    assert run.strength == 0


def test_a_run_at_the_very_bottom_is_left_and_the_next_corrects_for_it(tmp_path: Path) -> None:
    model = loaded()
    recovery = dp.recover(model, [0, 1, 4], drawn(tmp_path, model))
    bottom, upper = recovery.runs
    assert (bottom.blocks, bottom.into) == ((0, 1), None)
    assert "at the very bottom" in (bottom.why_not or "")
    assert upper.into == 3
    assert upper.strength > 0


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text", "olmo2", "glm4"])
def test_a_model_with_norms_behind_attention_and_mlp_gains(model_type: str, tmp_path: Path) -> None:
    model = loaded(model_type)
    calibration = drawn(tmp_path, model, windows=48)
    recovery = dp.recover(model, [2, 3], calibration)
    assert recovery.runs[0].why_not is None
    text = torch.cat(tokens_of(calibration, chooses=True))
    dense = logits(model, text)
    before = (logits(model, text, [2, 3]) - dense).pow(2).mean()
    with dp.recovered(model, recovery):
        after = (logits(model, text, [2, 3]) - dense).pow(2).mean()
    assert after < 0.7 * before


def test_a_channel_that_a_norm_had_switched_off_takes_its_part(tmp_path: Path) -> None:
    model = loaded("gemma3_text")
    calibration = drawn(tmp_path, model, windows=48)
    name = "model.layers.1.post_feedforward_layernorm.weight"
    with torch.no_grad():
        model.module.get_parameter(name)[5] = -1.0
    recovery = dp.recover(model, [2, 3], calibration, GAPS)
    gain = 1 + recovery.weights[name]
    assert gain.abs().min() > 0
    changed = {name, "model.layers.1.mlp.down_proj.weight"}
    assert changed <= recovery.weights.keys() == recovery.deltas.keys()
    text = torch.cat(tokens_of(calibration, chooses=True))
    dense = states(model, text, 3)
    before = (states(model, text, 1) - dense).pow(2).mean()
    with dp.recovered(model, recovery):
        after = (states(model, text, 1) - dense).pow(2).mean()
    assert after < 0.6 * before


def test_a_writer_that_gives_nothing_to_its_norm_is_refitted(tmp_path: Path) -> None:
    model = loaded("gemma2")
    with torch.no_grad():
        model.module.model.layers[1].self_attn.o_proj.weight.zero_()
    (run,) = dp.recover(model, [2], drawn(tmp_path, model), Linear(refit="1")).runs
    assert run.strength > 0


def test_the_same_run_gives_the_same_weights(tmp_path: Path) -> None:
    model = loaded("qwen2_moe")
    calibration = drawn(tmp_path, model)
    one, two = (dp.recover(model, [2, 4], calibration) for _ in range(2))
    assert one.runs == two.runs
    assert all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)


def test_a_model_with_accelerate_s_hooks_is_recovered_alike(
    tiny_llama: Path, tmp_path: Path
) -> None:
    accelerate = pytest.importorskip("accelerate")
    plain, hooked = (dp.load(tiny_llama, dtype="float32", device="cpu") for _ in range(2))
    accelerate.dispatch_model(hooked.module, {"": "cpu"}, main_device="cpu", force_hooks=True)
    down = hooked.module.model.layers[1].mlp.down_proj
    assert "forward" in vars(down)
    calibration = drawn(tmp_path, plain)
    ours, theirs = (dp.recover(model, [2, 4], calibration) for model in (hooked, plain))
    assert ours.runs == theirs.runs
    assert all(torch.equal(ours.weights[name], theirs.weights[name]) for name in theirs.weights)


def test_too_few_tokens_say_how_many_it_takes(tmp_path: Path) -> None:
    model = loaded()
    with pytest.raises(CalibrationError, match=r"36 tokens to fit, .* width 32 needs 64") as error:
        dp.recover(model, [2], drawn(tmp_path, model, windows=8, length=6))
    needed = re.search(r"about (\d+) calibration tokens", str(error.value))
    assert needed is not None
    dp.recover(model, [2], drawn(tmp_path, model, windows=-(-int(needed[1]) // 12) * 2, length=6))


def test_a_source_with_one_window_is_refused(tmp_path: Path) -> None:
    model = loaded()
    with pytest.raises(CalibrationError, match=r"two windows or more of each source.*windows=1;"):
        dp.recover(model, [2], drawn(tmp_path, model, windows=2))


def test_activations_that_are_nan_are_refused_by_their_block(tmp_path: Path) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    with torch.no_grad():
        model.module.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(EvaluationError, match="block 1 gives NaN or infinite activations"):
        dp.recover(model, [2], calibration)


def test_a_quantized_model_is_refused_with_what_can_be_done(tmp_path: Path) -> None:
    model = loaded()
    model.module.config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(ModelError, match="recover the unquantized model and quantize the result"):
        dp.recover(model, [2], drawn(tmp_path, model))


def test_massive_activations_stand_apart() -> None:
    ordinary = torch.ones(2, 4, 3)
    sink, late = ordinary.clone(), ordinary.clone()
    sink[0, 0] = 100
    late[1, 3] = 7
    found = massive([sink, ordinary], [ordinary, late])
    assert [each.nonzero().flatten().tolist() for each in found] == [[0], [7]]


def test_a_search_that_knows_of_recovery_sees_losses_after_it(tmp_path: Path) -> None:
    model = planted()
    calibration = drawn(tmp_path, model, windows=48)
    evaluator, scorer = dp.Evaluator(model, calibration), RecoveringScorer(model, calibration)
    (dense, before), (whole, after) = (each.score([(), (3,)]) for each in (evaluator, scorer))
    assert abs(after.loss - whole.loss) < 1e-4 < abs(before.loss - dense.loss)
    singles = scorer.score([(block,) for block in range(5)])
    result = dp.search("one-shot", scorer, k=1)
    assert result.score == min(singles, key=lambda score: score.loss)
    with pytest.raises(UsageError, match="take one-shot or greedy"):
        scorer.measure("block-influence")


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_what_recovering_sets_costs_is_counted(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(model_type)
    tokens: list[int] = []
    plain = Anatomy.call

    def counted(anatomy: Anatomy, block: int, states: torch.Tensor, inputs: Any) -> torch.Tensor:
        tokens.append(states.shape[0] * states.shape[1])
        return plain(anatomy, block, states, inputs)

    monkeypatch.setattr(Anatomy, "call", counted)
    scorer = RecoveringScorer(model, drawn(tmp_path, model))
    # Whether windows may share a call is tried once, and is no cost of a set.
    scorer.score([(4,)])
    for removed in [(0, 2, 3, 5), (1,), (3, 5)]:
        before, tokens[:] = scorer.cost.block_tokens, []
        scorer.score([removed])
        assert scorer.cost.block_tokens - before == sum(tokens)


@pytest.mark.parametrize("objective", ["nll", "kl"])
def test_a_rehearsal_tells_what_recovering_sets_costs(tmp_path: Path, objective: str) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    scorer = RecoveringScorer(model, calibration, objective)
    rehearsal = RecoveringRehearsal.of(model, calibration, parse_objective(objective))
    sets = [(0, 2, 3, 5), (1,), (3, 5)]
    scorer.compare(sets, 1)
    rehearsal.compare(sets, 1)
    told, spent = rehearsal.cost, scorer.cost
    assert (told.block_tokens, told.head_tokens) == (spent.block_tokens, spent.head_tokens)
    assert told.asked_block_tokens == spent.asked_block_tokens == spent.block_tokens
    assert told.evaluations == spent.evaluations == 3


def test_a_rehearsal_fits_the_right_option_of_an_item_alone(tmp_path: Path) -> None:
    items = [
        {"prompt": f"the river {i} rises", "options": ["in the hills"] * 4, "answer": i % 4}
        for i in range(40)
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    model = loaded()
    calibration = dp.calibrate(f"choices:{tmp_path}/items.jsonl,windows=32", model)
    scorer = RecoveringScorer(model, calibration, "option-ce")
    rehearsal = RecoveringRehearsal.of(model, calibration, parse_objective("option-ce"))
    scorer.score([(1,), (3,)])
    rehearsal.score([(1,), (3,)])
    assert rehearsal.cost.block_tokens == pytest.approx(scorer.cost.block_tokens, rel=0.1)


def test_a_recovered_set_is_scored_on_the_windows_that_choose(tmp_path: Path) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    scorer = RecoveringScorer(model, calibration)
    dense, score = scorer.score([(), (4, 2)])
    recovery = dp.recover(model, (2, 4), calibration, GAPS)
    losses = []
    for removed in ((), (2, 4)):
        with dp.recovered(model, recovery if removed else replace(recovery, weights={})):
            texts = tokens_of(calibration, chooses=True)
            found = [logits(model, text, removed)[0, :-1] for text in texts]
        losses.append(
            [cross_entropy(x, t[0, 1:]).item() for x, t in zip(found, texts, strict=True)]
        )
    for each, expected in zip((dense, score), losses, strict=True):
        assert each.window_losses.tolist() == pytest.approx(expected, rel=1e-5)
    assert scorer.windows == 6


def test_removed_blocks_fall_into_runs() -> None:
    assert runs_of([14, 4, 5, 13, 25]) == [(4, 5), (13, 14), (25,)]


def test_an_absorber_is_found_in_bfloat16_as_in_float32() -> None:
    wide, narrow = (
        find_fold_target(loaded(dtype=kind).anatomy, 2) for kind in (torch.float32, torch.bfloat16)
    )
    assert (wide.terms, wide.weights) == (narrow.terms, narrow.weights)


@pytest.mark.parametrize("restless", [False, True])
def test_an_absorber_is_found_whatever_a_product_rounds_by(restless: bool) -> None:
    plain = find_fold_target(loaded().anatomy, 2)
    with hostile_arithmetic(restless=restless):
        found = find_fold_target(loaded(dtype=torch.bfloat16).anatomy, 2)
    assert (found.terms, found.weights) == (plain.terms, plain.weights)
