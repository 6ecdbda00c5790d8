"""A Ray cluster: which one, how many workers of what size, and leaving it as it was.

`ray` alone joins the cluster that runs on this machine, or starts one that ends with the process;
`ray://HOST:PORT` joins the one whose head is there, from a machine that belongs to it. What cannot
be had is said at once: Ray itself would wait for ever, for an address or for a GPU.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthprune.errors import UsageError, first_line
from depthprune.extras import require_extra
from depthprune.progress import note
from depthprune.threads import processors

_ANSWERS_WITHIN = 8.0
_MOST_WORKERS = 4096
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[\w.-]+):(?P<port>\d{1,5})")


@dataclass(frozen=True)
class Engine:
    """What `--engine` and its flags ask for.

    Attributes:
        address: HOST:PORT of a cluster's head; None for the one of this machine.
        workers: How many; None for one a GPU, else two a node.
        gpus: For each worker; None for one where the cluster has any.
        cpus: For each worker; None for an even share of its node's.
    """

    address: str | None = None
    workers: int | None = None
    gpus: float | None = None
    cpus: float | None = None


@dataclass(frozen=True)
class Cluster:
    """A cluster that was joined, and the workers that fit.

    Attributes:
        ray: The module.
        workers: How many.
        gpus: For each.
        cpus: For each.
        logs: Where this machine's Ray writes what workers print.
    """

    ray: Any
    workers: int
    gpus: float
    cpus: float
    logs: Path

    def fitting(self) -> int:
        """How many such workers the nodes that are alive have room for, taken or not."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return sum(_fitting(node, self.gpus, self.cpus) for node in nodes)


def as_engine(engine: str | Engine | None) -> Engine | None:
    """What Python names an engine by; a text as `--engine` takes it.

    Raises:
        UsageError: If it names none.
    """
    return parse_engine(engine) if isinstance(engine, str) else engine


def parse_engine(
    text: str,
    workers: int | None = None,
    gpus: float | None = None,
    cpus: float | None = None,
) -> Engine:
    """Read `ray` or `ray://HOST:PORT`, and the flags beside it.

    Raises:
        UsageError: If it is neither, or a number is out of range.
    """
    name, _, rest = text.partition("://")
    found = _ADDRESS.fullmatch(rest) if rest else None
    if name != "ray" or (text != "ray" and (found is None or not 0 < int(found["port"]) < 65536)):
        raise UsageError(f"--engine: expected ray or ray://HOST:PORT, got '{text}'")
    if workers is not None and not 1 <= workers <= _MOST_WORKERS:
        raise UsageError(f"--workers: expected 1 to {_MOST_WORKERS:,}, got {workers:,}")
    for flag, value in (("--gpus-per-worker", gpus), ("--cpus-per-worker", cpus)):
        if value is not None and not (0 <= value <= _MOST_WORKERS):
            raise UsageError(f"{flag}: expected a number from 0, got {value}")
        if value is not None and value > 1 and value != int(value):
            raise UsageError(f"{flag}: expected a whole number or a part of one, got {value}")
    if cpus is not None and not cpus:
        raise UsageError("--cpus-per-worker: expected more than 0, got 0")
    return Engine(rest or None, workers, gpus, cpus)


@contextmanager
def join(engine: Engine) -> Iterator[Cluster]:
    """Join the cluster that an engine names, or start one, and leave it at the end.

    Raises:
        UsageError: If Ray is not installed, nobody answers, or the workers do not fit.
    """
    ray = _ray()
    if engine.address is not None:
        _require_answer(engine.address)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    if engine.address is not None:
        del quiet["include_dashboard"]
    try:
        context = ray.init(address=engine.address, configure_logging=False, **_fit(engine, quiet))
    except Exception as error:
        raise UsageError(
            f"--engine: Ray could not be joined ({first_line(error)}); run this on a machine of "
            "the cluster (`ray start --address=…` makes it one), or pass --engine ray"
        ) from error
    _off_stdout()
    try:
        cluster = _sized(ray, engine, _logs(context))
        note(
            f"Ray: {cluster.workers} worker{'s' * (cluster.workers > 1)} of {cluster.cpus:g} "
            f"processors and {cluster.gpus:g} GPUs each"
        )
        yield cluster
    finally:
        ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    return require_extra("--engine ray", "ray", "ray")[0]


def _off_stdout() -> None:
    """Keep what Ray says of dead workers off stdout, where only results stand; we say it too."""
    from ray._private import worker  # Ray has no public way

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_, **__: None


def _require_answer(address: str) -> None:
    found = _ADDRESS.fullmatch(address)
    assert found is not None
    host, port = found["host"].strip("[]"), int(found["port"])
    try:
        socket.create_connection((host, port), timeout=_ANSWERS_WITHIN).close()
    except OSError as error:
        raise UsageError(
            f"--engine ray://{address}: nobody answers ({first_line(error)}); "
            "`ray status` on the head says its address"
        ) from error


def _fit(engine: Engine, settings: dict[str, Any]) -> dict[str, Any]:
    """A cluster that is started here has the processors that this process may use."""
    if engine.address is None and not _running_here():
        settings["num_cpus"] = processors()
    elif engine.address is None:
        settings.pop("include_dashboard", None)
    return settings


def _running_here() -> bool:
    """Whether Ray would join a cluster rather than start one."""
    if os.environ.get("RAY_ADDRESS"):
        return True
    from ray._private import services  # Ray has no public way to ask

    return bool(services.find_bootstrap_address(None))


def _logs(context: Any) -> Path:
    return Path(context.address_info["session_dir"]) / "logs"


def _sized(ray: Any, engine: Engine, logs: Path) -> Cluster:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    each = [node["Resources"] for node in nodes]
    all_gpus = sum(node.get("GPU", 0.0) for node in each)
    all_cpus = sum(node.get("CPU", 0.0) for node in each)
    gpus = engine.gpus if engine.gpus is not None else float(all_gpus > 0)
    count = engine.workers
    if count is None:
        count = sum(_parts(node, "GPU", gpus) for node in each) if gpus else 2 * len(nodes)
    count = max(1, count)
    cpus = engine.cpus if engine.cpus is not None else _share(each, count, gpus)
    fits = sum(_fitting(node, gpus, cpus) for node in each)
    if fits < count:
        raise UsageError(
            f"--workers: {count} of {gpus:g} GPUs and {cpus:g} processors do not fit; the cluster "
            f"has {len(nodes)} node{'s' * (len(nodes) > 1)} with {all_gpus:g} GPUs and "
            f"{all_cpus:g} processors, which is enough for {fits}; ask for fewer or smaller ones"
        )
    return Cluster(ray, count, gpus, cpus, logs)


def _share(nodes: list[dict[str, float]], count: int, gpus: float) -> float:
    """The processors of each worker: an even share, or less where machines are of unequal size."""
    even = sum(node.get("CPU", 0.0) for node in nodes) / count
    even = float(int(even)) if even >= 1 else even
    share = even
    while sum(_fitting(node, gpus, share) for node in nodes) < count:
        share = share - 1 if share > 1 else share / 2
        if share < 1 / count:
            return even
    return share


def _fitting(node: dict[str, float], gpus: float, cpus: float) -> int:
    of_cpus = _parts(node, "CPU", cpus)
    return min(of_cpus, _parts(node, "GPU", gpus)) if gpus else of_cpus


def _parts(node: dict[str, float], of: str, size: float) -> int:
    # Ray counts in ten-thousandths.
    return int((node.get(of, 0.0) + 1e-6) / size)
