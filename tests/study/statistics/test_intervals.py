"""The items' own error, against the textbook's where there is one."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from depthprune.study.items import pack
from depthprune.study.statistics import noise
from depthprune.study.statistics.core import core
from depthprune.study.statistics.data import data
from depthprune.study.statistics.gains import gain
from depthprune.study.statistics.intervals import VariancePart, half_width, item_parts
from depthprune.study.statistics.simulation import Design
from study.planted import noise_only

ITEMS = 20


def by_item(rows, n=ITEMS, seed=0):
    """The same rows, each accuracy that of n items, by chance right or wrong."""
    rng = np.random.default_rng(seed)
    found = []
    for row in rows:
        text, task = row.evaluations
        right = (rng.random(n) < task.value).astype(float)
        changes = {"n": n, "items": pack(right), "value": float(right.mean())}
        found.append(
            row.model_copy(update={"evaluations": (text, task.model_copy(update=changes))})
        )
    return found


def right(row):
    digits = row.evaluations[1].items
    bits = bin(int(digits, 16))[2:].zfill(4 * len(digits))[:ITEMS]
    return np.asarray(list(map(float, bits)))


def test_the_items_error_of_a_gain_is_that_of_a_paired_t_test():
    rows = by_item(noise_only(sources=("prose", "code"), searches=("one-shot", "greedy")))
    of = core(data(rows)).of("accuracy")
    assert of.by_item
    (part,) = item_parts(of, lambda v: (v[:, 0] - v[:, 1]).mean(axis=(0, 1)))
    each = np.mean([right(r) * (1 if r.search == of.searches[0] else -1) for r in rows], axis=0)
    assert part.freedom == ITEMS - 1
    assert part.variance == pytest.approx(stats.sem(2 * each) ** 2)
    found = gain(of, "greedy", "one-shot", lower_is_better=False)
    alone = gain(replace(of, without_items=None), "greedy", "one-shot", lower_is_better=False)
    assert found.draws.value == alone.draws.value
    for wide, narrow in (
        (found.draws, alone.draws),
        (found.sources, alone.sources),
        (found.by_objective["nll"], alone.by_objective["nll"]),
    ):
        assert np.ptp(wide.interval) > np.ptp(narrow.interval)


def test_of_perplexity_windows_count_by_their_tokens():
    (row,) = noise_only(sources=("prose",), searches=("greedy",), draws=1)
    losses, weights = np.asarray([3.0, 4.0, 5.0]), np.asarray([10.0, 30.0, 5.0])
    changes = {"n": 3, "items": pack(losses), "weights": tuple(weights.tolist())}
    changes["value"] = float(np.exp(losses @ weights / weights.sum()))
    evaluation = row.evaluations[0].model_copy(update=changes)
    found = data([row.model_copy(update={"evaluations": (evaluation,)})])
    expected = [(4 * 30 + 5 * 5) / 35, (3 * 10 + 5 * 5) / 15, (3 * 10 + 4 * 30) / 40]
    assert found.without_items[:3, 0, 0] == pytest.approx(expected)
    assert np.isnan(found.without_items[3:]).all()


def test_without_results_by_item_nothing_is_added():
    of = core(data(noise_only())).of("accuracy")
    assert not of.by_item
    assert item_parts(of, lambda values: values.mean(axis=(0, 1, 2))) == []


def test_of_a_mean_of_two_tasks_each_adds_a_quarter_of_its_own():
    rows = by_item(noise_only(sources=("prose", "code"), searches=("one-shot", "greedy")))
    of = core(data(rows)).of("accuracy")
    both = replace(
        of,
        values=np.tile(of.values, 2),
        responses=of.responses * 2,
        without_items=np.tile(of.without_items, 2),
    )
    (one,), parts = (item_parts(each, lambda v: v[:, 0].mean(axis=(0, 1))) for each in (of, both))
    assert [part.variance for part in parts] == pytest.approx([one.variance / 4] * 2)
    unknown = both.without_items.copy()
    unknown[..., 1] = np.nan
    assert item_parts(replace(both, without_items=unknown), lambda v: v.mean(axis=(0, 1, 2))) == []


def test_of_one_group_of_items_alone_no_error_is_known():
    of = core(data(by_item(noise_only(), n=2))).of("accuracy")
    assert of.by_item
    single = of.without_items.copy()
    single[1:] = np.nan
    assert not replace(of, without_items=single).by_item


def test_one_cell_without_its_items_leaves_their_error_unknown():
    first, *rest = by_item(noise_only())
    task = first.evaluations[1].model_copy(update={"items": None})
    rows = [first.model_copy(update={"evaluations": (first.evaluations[0], task)}), *rest]
    assert data(rows).without_items is None


def test_what_factors_move_and_their_difference_widen_with_the_items_and_keep_their_values():
    of = Design(calibrations=3, draws=4, searches=2, items=30).core(np.random.default_rng(1))
    bare = replace(of, without_items=None)
    for vary in ("calibration", "search", "draw"):
        wide, narrow = noise.moved(of, vary), noise.moved(bare, vary)
        assert wide.value == narrow.value
        # Two draws of one calibration answer the same items alike here, so items add nothing there.
        widened = wide.high - wide.value > (narrow.high - narrow.value) * (1 + 1e-9)
        assert widened == (vary != "draw")
    more, less = noise.difference(of, resamples=199), noise.difference(bare, resamples=199)
    assert more.estimate.value == less.estimate.value
    assert np.ptp(more.estimate.interval) > np.ptp(less.estimate.interval)
    assert more.p > less.p


def test_parts_add_with_welchs_degrees_of_freedom():
    one, other = np.asarray([0.1, 0.5, 0.2]), np.asarray([0.3, 1.9, 0.4, 1.1])
    parts = [VariancePart(stats.sem(x) ** 2, len(x) - 1) for x in (one, other)]
    welch = stats.ttest_ind(one, other, equal_var=False).confidence_interval()
    assert half_width(parts) == pytest.approx((welch.high - welch.low) / 2)
    assert half_width([VariancePart(0.0, 3)]) == 0.0
