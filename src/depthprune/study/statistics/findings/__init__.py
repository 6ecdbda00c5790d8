"""What a study's table says, in plain sentences with the numbers behind them."""

from depthprune.study.statistics.findings.gather import findings, findings_of

__all__ = ["findings", "findings_of"]
