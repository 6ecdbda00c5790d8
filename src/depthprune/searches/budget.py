"""What a search may spend: evaluations, block-tokens or seconds.

One flag makes a comparison of searches one at equal cost. Evaluations are exact: an ask that cannot
be paid for whole is scored as far as it can be. Block-tokens and seconds are looked at before each
ask, so that the last one may exceed them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from depthprune.errors import UsageError
from depthprune.evaluator import Cost

_SECONDS = {"s": 1, "min": 60, "h": 3600}
_EXPECTED = "expected evaluations such as 200, block-tokens such as 5e7bt, or a time such as 10min"


@dataclass(frozen=True)
class Budget:
    """Limits on what a search spends; it is stopped at the first that is reached.

    Attributes:
        evaluations: Removed sets scored, one on half of the windows counting half.
        block_tokens: Tokens times blocks of what is asked for, whether or not it was known.
        seconds: Wall time of the search.

    Raises:
        UsageError: If none is given, or one is not above 0.
    """

    evaluations: float | None = None
    block_tokens: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.evaluations, self.block_tokens, self.seconds) if v is not None]
        if not given:
            raise UsageError(f"--budget: {_EXPECTED}; got nothing")
        for value in given:
            if not 0 < value < math.inf:
                raise UsageError(f"--budget: {_EXPECTED}, above 0; got {value:g}")

    def __str__(self) -> str:
        """As `parse_budget` reads it."""
        parts = []
        for name, value in (
            ("evaluations", self.evaluations),
            ("block-tokens", self.block_tokens),
            ("seconds", self.seconds),
        ):
            if value is not None:
                parts.append(f"{name}={int(value) if value == int(value) else value}")
        return ",".join(parts)

    def spent(self, cost: Cost, seconds: float) -> bool:
        """Whether nothing more can be asked for.

        Args:
            cost: Of the search so far.
            seconds: That it has taken.
        """
        return (
            (self.evaluations is not None and cost.evaluations >= self.evaluations)
            or (self.block_tokens is not None and cost.asked_block_tokens >= self.block_tokens)
            or (self.seconds is not None and seconds >= self.seconds)
        )


def parse_budget(text: str) -> Budget:
    """Read `200`, `5e7bt`, `10min`, or names: `evaluations=200,seconds=600`.

    Raises:
        UsageError: If it is no budget.
    """
    values: dict[str, float] = {}
    for part in text.split(","):
        name, value = _part(part.strip(), text)
        if name in values:
            raise UsageError(f"--budget: expected each limit once, got {text!r}")
        values[name] = value
    return Budget(**values)


def _part(part: str, text: str) -> tuple[str, float]:
    found = re.fullmatch(
        r"(?:(evaluations|block-tokens|seconds)\s*=)?\s*"
        r"([0-9]+(?:\.[0-9]*)?(?:e\+?[0-9]+)?)\s*(bt|s|min|h)?",
        part.lower(),
    )
    if not found or (found[1] and found[3]):
        raise UsageError(f"--budget: {_EXPECTED}; got {text!r}")
    number = float(found[2])
    if found[1]:
        return found[1].replace("-", "_"), number
    if found[3] == "bt":
        return "block_tokens", number
    if found[3]:
        return "seconds", number * _SECONDS[found[3]]
    return "evaluations", number
