"""Recovery: mending what removal broke, by weights that are there already."""

from depthprune.recovery.recover import Change, Recovery, RunRecovery, recover, recovered
from depthprune.recovery.stored import stored

__all__ = ["Change", "Recovery", "RunRecovery", "recover", "recovered", "stored"]
