"""Variance decomposition: which factor the differences between cells come from.

Type II sums of squares (Yates 1934): a term is judged given all terms that do not contain it, so
that the order in which factors are named decides nothing and a missing cell does little harm.
η² = SS / SS_total; ω² = (SS − df·MS_error) / (SS_total + MS_error) takes off what chance alone
would explain (Hays 1963), and may be a little below 0.

A draw belongs to one calibration, and all searches read it, as sub-plots of one plot: source,
length and windows are judged against the draws, everything else against the residual. Text and
choices calibrations share neither objective nor length: one call takes one kind.

The rank of the design says what can be estimated. A term whose contrasts the grid does not all
separate from other terms is named with the reason and not computed; libraries print a number there.
Sums are taken over responses, so that texts on which a factor acts in opposite ways do not cancel.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from depthprune.study.statistics.data import (
    Floats,
    Ints,
    StudyData,
)
from depthprune.study.statistics.estimates import NotEstimable

Name: TypeAlias = frozenset[str]

MAIN = ("model", "k", "objective", "source", "length", "windows", "search")
DRAW = "draw"
_SIZE = frozenset({"model", "k"})
_WHOLE = frozenset({"calibration"})
_PLOT = frozenset({"source", "length", "windows"}) | _WHOLE
_DRAW = _PLOT | {DRAW}


@dataclass(frozen=True)
class Term:
    """One source of variance.

    Attributes:
        name: A factor, two joined by ` × `, or `draw`.
        df: Degrees of freedom.
        ss: Type II sum of squares, over the responses.
        eta2: Share of all the variance.
        within: Share of the variance that model, k and both together leave; None for those.
        omega2: η² less what chance explains, or why it is not known.
        error: What it is judged against, `draw` or `residual`.
    """

    name: str
    df: int
    ss: float
    eta2: float
    within: float | None
    omega2: float | NotEstimable
    error: str


@dataclass(frozen=True)
class Decomposition:
    """The whole partition.

    Attributes:
        terms: Those that the table can estimate, factors first, then the draw, then pairs.
        not_estimable: The name of every other term, with the reason.
        calibration: The `within` share of the calibration as a whole: source, length, windows and
            what they do together.
        residual: Share of the variance that no term explains.
        residual_within: The same of what model and k leave; None where they leave nothing.
        residual_df: Its degrees of freedom.
        cells: How many cells.
    """

    terms: tuple[Term, ...]
    not_estimable: dict[str, NotEstimable]
    calibration: float | NotEstimable
    residual: float
    residual_within: float | None
    residual_df: int
    cells: int

    def share(self, factor: str) -> float | NotEstimable:
        """The `within` share of one term.

        Args:
            factor: Its name; `calibration` is the calibration as a whole.
        """
        if factor == "calibration":
            return self.calibration
        for term in self.terms:
            if term.name == factor and term.within is not None:
                return term.within
        return self.not_estimable.get(factor, NotEstimable(f"no share is computed for {factor}"))


def decompose(data: StudyData, columns: Ints) -> Decomposition | NotEstimable:
    """Partition the variance of some responses over the factors of a study.

    Args:
        data: Cells of one kind of calibration.
        columns: Which responses; all log-perplexities or all accuracies.
    """
    if not len(columns) or not len(data.rows):
        return NotEstimable("no cell has such an evaluation")
    if data.count("kind") > 1:
        return NotEstimable(
            "text and choices calibrations are crossed blocks; take one kind at a time"
        )
    values = data.values[:, columns]
    centred = values - values.mean(axis=0)
    total = float((centred**2).sum())
    if total <= 1e-20 * float((values**2).sum()):
        return NotEstimable("all values are equal")
    return _Design(data).partition(centred, total)


class _Design:
    """The terms of a grid, their columns, and what of them can be estimated."""

    def __init__(self, data: StudyData) -> None:
        self._data = data
        self._bases: dict[frozenset[Name], Floats] = {}
        self._codes: dict[Name, Ints] = {}
        self.not_estimable: dict[str, NotEstimable] = {}
        self.terms = self._choose()

    def partition(self, y: Floats, total: float) -> Decomposition:
        everything = self._rss(self.terms, y)
        residual_df = len(y) - self._rank(self.terms)
        sums = {term: self._sum(term, self._beside(term, self.terms), y) for term in self.terms}
        left = total - sum(ss for term, (ss, _) in sums.items() if term <= _SIZE)
        errors = {"residual": (everything, residual_df)}
        if _DRAW in sums:
            errors[DRAW] = sums[_DRAW]
        found = []
        for term, own in sums.items():
            error = DRAW if term <= _PLOT and DRAW in errors else "residual"
            within = None if term <= _SIZE or left <= 1e-12 * total else max(0.0, own[0]) / left
            found.append(_term(_name(term), own, total, within, error, errors[error]))
        return Decomposition(
            terms=tuple(found),
            not_estimable=self.not_estimable,
            calibration=self._calibration(y, left / total, total),
            residual=everything / total,
            residual_within=None if left <= 1e-12 * total else everything / left,
            residual_df=residual_df,
            cells=len(y),
        )

    def _calibration(self, y: Floats, left: float, total: float) -> float | NotEstimable:
        if self._data.count("calibration") < 2:
            return NotEstimable("the table has one calibration only")
        if left <= 1e-12:
            return NotEstimable("model and k explain everything")
        others = [term for term in self.terms if not term & _DRAW]
        return max(0.0, self._sum(_WHOLE, others, y)[0]) / total / left

    def _choose(self) -> list[Name]:
        """Every term that the design separates from those it is judged beside."""
        varied = [factor for factor in MAIN if self._data.count(factor) > 1]
        for factor in MAIN:
            if factor not in varied:
                word = "number of windows" if factor == "windows" else factor
                self.not_estimable[factor] = NotEstimable(f"the table has one {word} only")
        mains = [frozenset({factor}) for factor in varied]
        chosen = [term for term in mains if self._separable(term, mains)]
        if self._data.count("calibration") > 1 and not self._told_apart(chosen, varied):
            # What cannot be split into source, length and windows is still one calibration.
            chosen = [term for term in chosen if not term <= _PLOT]
            if self._separable(_WHOLE, [*chosen, _WHOLE]):
                chosen.append(_WHOLE)
        if self._separable(_DRAW, [*chosen, _DRAW]):
            chosen.append(_DRAW)
        single = [next(iter(term)) for term in chosen if term != _DRAW]
        pairs = [frozenset(pair) for pair in itertools.combinations(single, 2)]
        return chosen + [pair for pair in pairs if self._separable(pair, [*chosen, *pairs])]

    def _told_apart(self, chosen: Sequence[Name], varied: Sequence[str]) -> bool:
        plot = [factor for factor in varied if factor in _PLOT]
        apart = int(self._data.joint(*plot).max()) + 1 == self._data.count("calibration")
        return apart and all(frozenset({factor}) in chosen for factor in plot)

    def _beside(self, term: Name, terms: Sequence[Name]) -> list[Name]:
        """The terms that one is judged given: all that do not contain it."""
        others = [each for each in terms if not term <= each]
        # The draws' columns span the calibrations', even those that no other term covers.
        return [*others, _WHOLE] if term == _DRAW else others

    def _separable(self, term: Name, terms: Sequence[Name]) -> bool:
        others = self._beside(term, terms)
        gained = self._rank([*others, term]) - self._rank(others)
        if term == _DRAW:
            wanted = self._data.count("unit") - self._data.count("calibration")
        else:
            wanted = int(np.prod([self._data.count(factor) - 1 for factor in term]))
        if gained == wanted > 0:
            return True
        if wanted == 0:
            why = "no configuration has two draws"
        elif gained == 0:
            why = "it is confounded with the other factors"
        else:
            why = f"the grid separates {gained} of its {wanted} contrasts from the other factors"
        self.not_estimable[_name(term)] = NotEstimable(why)
        return False

    def _sum(self, term: Name, others: Sequence[Name], y: Floats) -> tuple[float, int]:
        df = self._rank([*others, term]) - self._rank(others)
        return self._rss(others, y) - self._rss([*others, term], y), df

    def _code(self, term: Name) -> Ints:
        if term not in self._codes:
            names = ["unit"] if term == _DRAW else sorted(term)
            self._codes[term] = self._data.joint(*names)
        return self._codes[term]

    def _basis(self, terms: Sequence[Name]) -> Floats:
        key = frozenset(terms)
        if key not in self._bases:
            columns = [np.ones((len(self._data.rows), 1))]
            for term in sorted(key, key=sorted):
                code = self._code(term)
                columns.append(np.eye(int(code.max()) + 1)[code])
            left, singular, _ = np.linalg.svd(np.hstack(columns), full_matrices=False)
            self._bases[key] = left[:, singular > 1e-9 * singular[0]]
        return self._bases[key]

    def _rank(self, terms: Sequence[Name]) -> int:
        return int(self._basis(terms).shape[1])

    def _rss(self, terms: Sequence[Name], y: Floats) -> float:
        basis = self._basis(terms)
        return float(((y - basis @ (basis.T @ y)) ** 2).sum())


def _name(term: Name) -> str:
    return DRAW if term == _DRAW else " × ".join(f for f in (*MAIN, "calibration") if f in term)


def _term(
    name: str,
    own: tuple[float, int],
    total: float,
    within: float | None,
    error: str,
    judged: tuple[float, int],
) -> Term:
    ss, df = own
    omega2: float | NotEstimable = NotEstimable("no cell is left to estimate the error from")
    if judged[1] > 0:
        mean_square = judged[0] / judged[1]
        omega2 = (ss - df * mean_square) / (total + mean_square)
    return Term(name, df, max(0.0, ss), max(0.0, ss) / total, within, omega2, error)
