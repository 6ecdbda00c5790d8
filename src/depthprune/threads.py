"""How many threads compute, and how they wait for each other.

The number follows from what the process may use: the processors it is bound to, which the libraries
heed by themselves, and the quota of its control group, which they do not. It never follows from how
busy the machine is, since losses of one number of threads are not those of another to the bit, and
a run that is gone on with must find its own in the memo.
What a busy machine changes is the price of waiting. A thread that spins at a barrier takes the
processor from the very thread it waits for: so it sleeps soon, which changes no number.
All of it is set in the libraries' environment variables, before they are loaded; one that
the user has set stays.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from depthprune.control_groups import groups

_SPINS = "10000"  # tens of microseconds
_SLEEP_AFTER = "1"  # milliseconds, of the OpenMP of Intel and LLVM


def settle(threads: int | None = None) -> None:
    """Decide how many threads compute; to be called before torch is loaded.

    Args:
        threads: As asked for; None for as many as this process may use.
    """
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        allowed = quota()
        if allowed is not None and allowed < processors():
            os.environ["OMP_NUM_THREADS"] = str(max(1, int(allowed)))
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
        os.environ.setdefault("KMP_BLOCKTIME", _SLEEP_AFTER)


def processors() -> int:
    """How many processors this process is bound to."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quota() -> float | None:
    """How many processors' time its control group may take; None where there is no limit."""
    limits = [limit for folder in groups("cpu") if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def busy_words() -> str:
    """That more wants to run than there are processors, in words; empty where it does not."""
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):
        return ""
    there = min(float(processors()), quota() or float("inf"))
    if load < 1.5 * there + 0.5:
        return ""
    return f"the machine is busy (a load of {load:.1f} on {there:g} processors)"


def _limit(group: Path) -> float | None:
    """A control group's own limit, of either version."""
    try:
        text = group / "cpu.max"
        if text.exists():
            share, period = text.read_text(encoding="utf-8").split()
        else:
            share, period = (
                (group / f"cpu.cfs_{name}_us").read_text(encoding="utf-8")
                for name in ("quota", "period")
            )
        return int(share) / int(period) if share != "max" and int(share) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
