"""The control groups that a process is in on Linux, whose limits containers and job queues set."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def groups(controller: str) -> list[Path]:
    """The folders of the groups that this process is in, up to the root.

    Args:
        controller: What they limit, such as `cpu` or `memory`; each is a tree of its own in the
            first version of control groups, and all are one in the second.
    """
    try:
        lines = _OWN.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, kinds, path = line.split(":", 2)
        root = (
            _ROOT if not kinds else _ROOT / controller if controller in kinds.split(",") else None
        )
        if root is not None:
            own = root / path.lstrip("/")
            found += [own, *(each for each in own.parents if each.is_relative_to(root))]
    return found
