"""The map is the ridge's least squares, and other windows say how much of it is used."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from depthprune.errors import EvaluationError
from depthprune.recovery.linear.fit import ELSEWHERE, RIDGES, fit, fit_layers
from depthprune.recovery.linear.normal_equations import Sums

WIDTH = 8


def noise(seed: int, tokens: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, WIDTH, generator=generator, dtype=torch.float64)


def summed(added: torch.Tensor, lacking: torch.Tensor) -> Sums:
    sums = Sums.empty(WIDTH, torch.device("cpu"))
    for place in range(0, len(added), 7):  # as if in batches
        sums.add(added[place : place + 7], lacking[place : place + 7])
    return sums


def test_a_map_is_least_squares_with_a_ridge_towards_the_identity() -> None:
    m, m2 = noise(0), noise(1)
    true = noise(2, WIDTH)
    e, e2 = m @ true.T + 0.5 * noise(3), m2 @ true.T + 0.5 * noise(4)
    found = fit(summed(m, e), [summed(m2, e2)], [1.0])
    # The same as rows of a plain system: √λ times the identity, with nothing on the other side.
    penalty = (found.ridge * m.pow(2).sum() / WIDTH).sqrt() * torch.eye(WIDTH)
    rows = torch.cat([m, penalty]), torch.cat([e, torch.zeros(WIDTH, WIDTH)])
    solved = torch.linalg.lstsq(*rows).solution.T
    torch.testing.assert_close(found.change, found.strength * solved)
    assert found.before == pytest.approx(e2.pow(2).mean().sqrt().item())
    after = (e2 - m2 @ found.change.T).pow(2).mean().sqrt().item()
    assert found.after == pytest.approx(after)
    assert found.after < found.before


def test_an_exact_map_takes_the_least_ridge_and_all_of_it() -> None:
    m, m2, true = noise(0), noise(1), noise(2, WIDTH)
    found = fit(summed(m, m @ true.T), [summed(m2, m2 @ true.T)], [1.0])
    torch.testing.assert_close(found.change, true, rtol=1e-4, atol=1e-4)
    assert found.ridge == RIDGES[0]
    assert found.strength == pytest.approx(1.0, abs=1e-4)


def test_what_helps_no_other_window_is_not_used() -> None:
    m, true = noise(0), noise(2, WIDTH)
    found = fit(summed(m, m @ true.T), [summed(m, -m @ true.T)], [1.0])
    assert found.strength == 0
    assert not found.change.any()
    assert found.after == found.before


def test_no_source_is_made_worse_for_another() -> None:
    m, true = noise(0), noise(2, WIDTH)
    with_it, against = summed(m, m @ true.T), summed(m, -0.1 * m @ true.T)
    assert fit(with_it, [with_it, against], [0.9, 0.1]).strength == 0
    lacking = 0.3 * m @ true.T
    a_little = summed(m, lacking)
    found = fit(with_it, [with_it, a_little], [0.9, 0.1])
    assert found.strength == pytest.approx(0.6, abs=1e-3)
    error = (lacking - m @ found.change.T).pow(2).sum().item()
    assert error <= a_little.squares * (1 + 1e-9)


def test_a_source_that_lacks_nothing_is_not_made_to() -> None:
    m, true = noise(0), noise(2, WIDTH)
    with_it, right = summed(m, m @ true.T), summed(m, torch.zeros_like(m))
    assert fit(with_it, [with_it, right], [0.9, 0.1]).strength == 0
    untouched = summed(torch.zeros_like(m), torch.zeros_like(m))
    assert fit(with_it, [with_it, untouched], [0.9, 0.1]).strength > 0


def test_the_ridge_and_the_strength_are_the_best_of_all_that_harm_no_source() -> None:
    """Against numpy: every ridge solved as rows of a plain system, strengths on a grid."""
    true = noise(2, WIDTH)
    m = noise(0, 24) * torch.logspace(-2, 0, WIDTH, dtype=torch.float64)
    e = m @ true.T + 0.3 * noise(3, 24)
    others = []
    for seed, part in ((5, 0.2), (7, 1.1)):
        m2 = noise(seed) * torch.logspace(-2, 0, WIDTH, dtype=torch.float64)
        others.append((m2, part * m2 @ true.T + 0.3 * noise(seed + 1)))
    shares = (0.3, 0.7)
    found = fit(summed(m, e), [summed(*each) for each in others], shares)
    best = 1.0
    for ridge in RIDGES:
        penalty = np.sqrt(ridge * m.pow(2).sum().item() / WIDTH) * np.eye(WIDTH)
        rows = np.vstack([m.numpy(), penalty]), np.vstack([e.numpy(), np.zeros((WIDTH, WIDTH))])
        change = np.linalg.lstsq(*rows, rcond=None)[0]
        for strength in np.linspace(0, 1, 201):
            left = [
                ((e2.numpy() - strength * m2.numpy() @ change) ** 2).sum() / (e2**2).sum().item()
                for m2, e2 in others
            ]
            if max(left) <= 1 + 1e-12:
                best = min(best, float(np.dot(shares, left)))
    ours = [((e2 - m2 @ found.change.T) ** 2).sum() / (e2**2).sum() for m2, e2 in others]
    assert max(ours) <= 1 + 1e-9
    assert best - 1e-4 < sum(w * x.item() for w, x in zip(shares, ours, strict=True)) <= best
    assert 0 < found.strength < 1


def test_half_of_a_source_is_judged_by_what_the_others_give_it() -> None:
    """Against plain solutions of every ridge, whose errors are taken token by token."""
    scale = torch.logspace(-2, 0, WIDTH, dtype=torch.float64)
    true = [noise(2, WIDTH), noise(2, WIDTH) + 0.5 * noise(20, WIDTH)]
    tokens = []
    for place, seed in enumerate((0, 1, 5, 7)):
        m = noise(seed, 24) * scale
        tokens.append((m, m @ true[place % 2].T + 0.3 * noise(30 + place, 24)))
    fitted, choosing, shares = tokens[:2], tokens[2:], (0.3, 0.7)

    def solved(parts: list[tuple[torch.Tensor, torch.Tensor]], ridge: float) -> torch.Tensor:
        m, e = (torch.cat(each) for each in zip(*parts, strict=True))
        penalty = (ridge * m.pow(2).sum() / WIDTH).sqrt() * torch.eye(WIDTH)
        both = torch.cat([m, penalty]), torch.cat([e, torch.zeros(WIDTH, WIDTH)])
        return torch.linalg.lstsq(*both).solution.T

    def share(place: int, change: torch.Tensor) -> float:
        m, e = choosing[place]
        return ((e - m @ change.T).pow(2).sum() / e.pow(2).sum()).item()

    best = (1.0, 0.0, 0.0)
    for ridge in RIDGES:
        own = solved(fitted, ridge)
        others = [solved([fitted[1]], ridge), solved([fitted[0]], ridge)]
        for strength in np.linspace(0, 1, 201):
            ours = [share(place, strength * own) for place in (0, 1)]
            theirs = [share(place, strength * others[place]) for place in (0, 1)]
            mixed = np.dot(shares, (1 - ELSEWHERE) * np.array(ours) + ELSEWHERE * np.array(theirs))
            if max(ours) <= 1 + 1e-12 and mixed < best[0]:
                best = (float(mixed), ridge, float(strength))
    found = fit([summed(*each) for each in fitted], [summed(*each) for each in choosing], shares)
    assert 0 < best[2] < 1
    assert found.ridge == best[1]
    assert found.strength == pytest.approx(best[2], abs=0.005)
    torch.testing.assert_close(found.change, found.strength * solved(fitted, found.ridge))


def test_layers_that_are_given_the_same_are_fitted_as_if_each_were_alone() -> None:
    m, m2, e, e2 = (noise(seed) for seed in range(4))
    together = fit_layers([summed(m, e)], [summed(m2, e2 + m2)], [1.0], [3, 5])
    for found, rows in zip(together, (slice(0, 3), slice(3, 8)), strict=True):
        fitted, choosing = summed(m, e).rows(rows.start, rows.stop), summed(m2, e2 + m2)
        alone = fit(fitted, [choosing.rows(rows.start, rows.stop)], [1.0])
        torch.testing.assert_close(found.change, alone.change)
        assert (found.ridge, found.rank) == (alone.ridge, alone.rank)
        assert (found.before, found.after) == pytest.approx((alone.before, alone.after))


def test_a_singular_system_leaves_what_it_does_not_know() -> None:
    m = noise(0)
    m[:, 3:] = 0
    true = noise(2, WIDTH)
    found = fit(summed(m, m @ true.T), [summed(m, m @ true.T)], [1.0])
    torch.testing.assert_close(found.change[:, :3], true[:, :3], rtol=1e-4, atol=1e-4)
    assert not found.change[:, 3:].any()


def test_an_mlp_that_adds_nothing_is_left() -> None:
    nothing = summed(torch.zeros(9, WIDTH).double(), noise(1, 9))
    assert fit(nothing, [nothing], [1.0]).strength == 0


def test_tokens_that_are_held_stay_where_they_are() -> None:
    m, true = noise(0), noise(2, WIDTH)
    heavy = torch.zeros(1, WIDTH, dtype=torch.float64)
    heavy[0, 5] = 1e6
    sums = summed(m, m @ true.T)
    sums.hold(heavy)
    found = fit(sums, [summed(m, m @ true.T)], [1.0])
    assert (heavy @ found.change.T).norm() < 1e-4 * heavy.norm()
    assert sums.tokens == len(m)


def test_sums_that_overflow_are_refused() -> None:
    bad = summed(noise(0) * 1e200, noise(1))
    with pytest.raises(EvaluationError, match="--dtype float32"):
        fit(bad, [bad], [1.0])
