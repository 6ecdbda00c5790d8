"""Recovery: mending what removal broke, by weights that are there already."""

from depthprune.recovery.recover import Change, Recovery, RunRecovery, recover, recovered

__all__ = ["Change", "Recovery", "RunRecovery", "recover", "recovered"]
