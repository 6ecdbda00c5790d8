"""What losses are kept under tells apart what computes differently; long windows are refused."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from items import calibration_of, random_item, random_text
from torch import Tensor

import depthprune as dp
from depthprune.calibration import Calibration, Part
from depthprune.errors import CalibrationError, UsageError
from depthprune.evaluator import Memo
from depthprune.evaluator.memo import contexts
from depthprune.objectives import NLL, parse_objective
from tiny import save_tiny


class Doubled(NLL):
    """Another objective under the name of this package's."""

    def token_losses(self, outputs: Tensor, targets: Tensor, dense: Tensor | None) -> Tensor:
        return 2 * super().token_losses(outputs, targets, dense)


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> dp.Model:
    return dp.load(tiny_llama, dtype="float32", device="cpu")


@pytest.fixture
def calibration() -> Calibration:
    rng = np.random.default_rng(0)
    return calibration_of([random_text(rng) for _ in range(3)])


def test_an_objective_from_elsewhere_does_not_share_losses_by_its_name(
    model: dp.Model, calibration: Calibration, tmp_path: Path
) -> None:
    with Memo.open(tmp_path / "memo.sqlite") as memo:
        (plain,) = dp.Evaluator(model, calibration, NLL(), memo=memo).score([(1,)])
        (other,) = dp.Evaluator(model, calibration, Doubled(), memo=memo).score([(1,)])
    assert other.loss == pytest.approx(2 * plain.loss)


def test_another_transformers_is_another_context(
    model: dp.Model,
    calibration: Calibration,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Memo.open(tmp_path / "memo.sqlite") as memo:
        dp.Evaluator(model, calibration, memo=memo).score([(1,)])
        # It puts another module in its place once in a while.
        monkeypatch.setattr(contexts.transformers, "__version__", "99.0")
        later = dp.Evaluator(model, calibration, memo=memo)
        later.score([(1,)])
    assert later.cost.recalled == 0


def test_a_mixture_weighs_objectives_alike_in_each_domain(model: dp.Model) -> None:
    """nll judges both domains and cosine too; by hand, domain by domain."""
    rng = np.random.default_rng(1)
    given = calibration_of(
        [random_item(rng) for _ in range(3)], [random_item(rng, vocabulary=40) for _ in range(3)]
    )

    class Tagged:
        domains: ClassVar[dict[str, str]] = {}

    parts = [
        Part(
            part.spec.model_copy(update={"reduction": "worst-domain", "domain": name}),
            part.share,
            part.windows,
            Tagged(),  # type: ignore[arg-type]
        )
        for name, part in zip("ab", given.parts, strict=True)
    ]
    worst = Calibration(tuple(parts))
    single = {name: dp.Evaluator(model, given, name) for name in ("option-ce", "nll")}
    windows = {
        name: [each.score([s])[0].window_losses for s in ((), (2,))]
        for name, each in single.items()
    }
    expected = max(
        sum(
            0.5 * after[where].mean() / np.mean([before[:3].mean(), before[3:].mean()])
            for before, after in windows.values()
        )
        for where in (slice(0, 3), slice(3, 6))
    )
    found = dp.Evaluator(model, worst, "option-ce:0.5+nll:0.5").score([(2,)])[0].loss
    assert found == pytest.approx(expected, rel=1e-5)


def test_windows_past_a_table_of_positions_are_refused(tmp_path: Path) -> None:
    model = dp.load(save_tiny(tmp_path, "gpt2"), dtype="float32", device="cpu")
    long = calibration_of([random_text(np.random.default_rng(0), length=129)])
    with pytest.raises(CalibrationError, match=r"129 tokens, and the model has positions for 128"):
        dp.Evaluator(model, long)


def test_weights_that_sum_to_infinity_are_refused() -> None:
    with pytest.raises(UsageError, match="sum to infinity"):
        parse_objective("nll:1e308+kl:1e308")
