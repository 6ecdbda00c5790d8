"""What `--for` and the flags that go with it ask for."""

from __future__ import annotations

from dataclasses import dataclass

from depthprune.errors import UsageError

CALIBRATION_TOKENS = 8_192
"""Tokens of a calibration on the target, as many as the default calibration has."""

PARTS = ("calibrate", "choose", "judge")
DEFAULT_SPLIT = "50,25,25"


@dataclass(frozen=True)
class TargetJob:
    """Everything that is asked for with a target.

    Attributes:
        specs: What matters: the texts of `--for`.
        split: Shares of its three parts, as `--for-split` takes them.
        objective: What is measured on it; None for what its kind asks for.
        portfolio: A YAML file of calibrations to try; None for the built-in table.
        keep_general: By what share more than the best set may lose on the default text.
        tokens: Of a draw of the target; the default calibration, and what chooses and judges, are
            larger or smaller with it.
    """

    specs: tuple[str, ...]
    split: str = DEFAULT_SPLIT
    objective: str | None = None
    portfolio: str | None = None
    keep_general: float | None = None
    tokens: int = CALIBRATION_TOKENS


@dataclass(frozen=True)
class Split:
    """Shares of a target's documents, summing to 1.

    Attributes:
        calibrate: May be calibrated on.
        choose: Decides.
        judge: Is only reported.
    """

    calibrate: float
    choose: float
    judge: float

    @property
    def shares(self) -> tuple[float, float, float]:
        """In the order of `PARTS`."""
        return self.calibrate, self.choose, self.judge

    @property
    def smallest(self) -> float:
        """The share of the smallest part."""
        return min(self.shares)

    def __str__(self) -> str:
        return ",".join(f"{100 * share:g}" for share in self.shares)


def parse_split(text: str) -> Split:
    """Read three percentages, such as `50,25,25`.

    Raises:
        UsageError: If they are not three numbers above 0 that sum to 100.
    """
    try:
        shares = [float(part) / 100 for part in text.split(",")]
    except ValueError:
        shares = []
    right = len(shares) == len(PARTS) and all(share > 0 for share in shares)
    if not right or abs(sum(shares) - 1) > 1e-9:
        raise UsageError(
            f"--for-split: expected three percentages that sum to 100, of what is calibrated on, "
            f"chooses and judges, such as {DEFAULT_SPLIT}; got {text!r}"
        )
    return Split(*shares)
