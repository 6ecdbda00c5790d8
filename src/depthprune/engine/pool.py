"""A pool of workers on a cluster: each an actor that is made once and asked many things.

A worker that dies is replaced, and what it was doing is done again by another. What has killed
three workers is given up, with the reason, and the rest goes on. An error that a worker raises is
no death: the work itself is wrong, and would fail again. Where workers start at all, one that is
killed while it starts is replaced more patiently: what kills is then not the start.
"""

from __future__ import annotations

import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from depthprune.engine.cluster import Cluster
from depthprune.errors import DepthpruneError, EvaluationError, NoWorkersError, first_line
from depthprune.progress import note, warn

W = TypeVar("W")
MOST_DEATHS = 3
"""Of workers, over one piece of work."""
_MOST_STARTS = 10
"""Deaths of workers that start, one after the other, where some worker has started before."""
_LOOK_EVERY = 20.0
"""Seconds until it is looked whether there is still a machine to wait for."""


@dataclass(frozen=True)
class Lost:
    """Work that was given up.

    Attributes:
        reason: Why the last worker died.
    """

    reason: str


class _Actor:
    """Lives in a process of the cluster and holds what the factory made."""

    def __init__(self, factory: Callable[[], Any], cpus: float, folder: str) -> None:
        import torch

        # Paths that a plan or a command names are relative to where it was started.
        if os.path.isdir(folder):
            os.chdir(folder)
        torch.set_num_threads(max(1, int(cpus)))
        self._held = factory()

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._held, method)(*arguments)

    def greet(self) -> tuple[str, Any]:
        return socket.gethostname(), self._held.facts()


class Pool(Generic[W]):
    """Workers that hold what a factory makes.

    Args:
        cluster: Where they run.
        factory: Makes what a worker holds, in the worker; it travels, so it is small.
        check: Is given a new worker's `facts()`, and raises if it cannot work with the others.
    """

    def __init__(
        self,
        cluster: Cluster,
        factory: Callable[[], W],
        check: Callable[[Any], None] = lambda _: None,
    ) -> None:
        self.deaths = 0
        self._cluster = cluster
        self._ray = cluster.ray
        self._factory = self._ray.put(factory)
        self._check = check
        self._shared: dict[str, Any] = {}
        self._idle: list[Any] = []
        self._made: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._alive: dict[Any, str] = {}
        self._started = self._failures = 0
        try:
            for _ in range(cluster.workers):
                self._start()
            while self._starting:
                self._greet(self._next(list(self._starting), working=False))
        except BaseException:
            self.close()
            raise
        note(f"Ray: {self._living()}")

    @property
    def count(self) -> int:
        """How many workers there are."""
        return self._cluster.workers

    def share(self, name: str, value: Any) -> Any:
        """Ship something to the cluster once; what is answered stands for it in arguments."""
        if name not in self._shared:
            self._shared[name] = self._ray.put(value)
        return self._shared[name]

    def run(self, work: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Have every piece of work done by some worker.

        Args:
            work: Of each piece a method of what the workers hold, and its arguments. A list may
                grow while answers are taken; what is added is done before what still waits.

        Yields:
            The number of a piece with its answer, or with `Lost`, in the order in which they end.

        Raises:
            DepthpruneError: If a worker refused a piece, as itself would raise it.
        """
        waiting = deque(range(len(work)))
        running: dict[Any, tuple[int, Any]] = {}
        deaths: Counter[int] = Counter()
        known = len(work)
        try:
            while waiting or running or known < len(work):
                waiting.extendleft(reversed(range(known, len(work))))
                known = len(work)
                while waiting and self._idle:
                    piece, actor = waiting.popleft(), self._idle.pop()
                    running[actor.call.remote(*work[piece])] = piece, actor
                done = self._next([*running, *self._starting], working=bool(running))
                if done in self._starting:
                    self._greet(done)
                    note(f"Ray: a worker has started again; {self._living()}")
                    continue
                piece, actor = running.pop(done)
                answer = self._answer(done)
                if not isinstance(answer, Lost):
                    self._idle.append(actor)
                    yield piece, answer
                    continue
                self._mourn(actor, answer)
                deaths[piece] += 1
                if deaths[piece] >= MOST_DEATHS:
                    yield piece, answer
                else:
                    waiting.append(piece)
        finally:
            # A caller that stops early leaves workers busy with what nobody waits for.
            for _, actor in running.values():
                self._forget(actor)
                self._start()

    def close(self) -> None:
        """End the workers; nothing else on the cluster is touched."""
        for actor in list(self._made):
            self._forget(actor)
        self._idle.clear()
        self._starting.clear()

    def __enter__(self) -> Pool[W]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _logs(self) -> str:
        return str(self._cluster.logs)

    def _answer(self, done: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(done)
        except errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, DepthpruneError):
                raise cause from None
            raise EvaluationError(
                f"a worker failed ({first_line(cause or error)}); its log is in {self._logs}"
            ) from error
        except errors.RayError as error:
            return Lost(first_line(error, 200))

    def _start(self) -> None:
        made = self._ray.remote(_Actor)
        actor = made.options(num_cpus=self._cluster.cpus, num_gpus=self._cluster.gpus).remote(
            self._factory, self._cluster.cpus, os.getcwd()
        )
        self._made.append(actor)
        self._starting[actor.greet.remote()] = actor

    def _living(self) -> str:
        """How many workers there are, and on which machines."""
        on = ", ".join(f"{host} ({n})" for host, n in sorted(Counter(self._alive.values()).items()))
        return f"{len(self._alive)} of {self.count} workers alive{' on ' * bool(on)}{on}"

    def _greet(self, done: Any) -> None:
        """Take a worker that has started, start another for one that died, or refuse it."""
        actor = self._starting.pop(done)
        errors = self._ray.exceptions
        try:
            host, facts = self._ray.get(done)
        except errors.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, DepthpruneError):
                raise cause from None
            # What went wrong stands at the end of what the worker would have printed.
            reason = str(cause or error).strip().rsplit("\n", 1)[-1]
            self._failures += 1
            most = _MOST_STARTS if self._started else MOST_DEATHS
            # A worker may be killed while it starts; one that cannot start never will.
            if self._failures >= most or "creation task" in str(error):
                raise EvaluationError(
                    f"a worker could not start ({reason}); its log is in {self._logs}"
                ) from error
            self._mourn(actor, Lost(reason))
        else:
            self._failures = 0
            self._check(facts)
            self._started += 1
            self._alive[actor] = host
            self._idle.append(actor)

    def _next(self, asked: list[Any], *, working: bool) -> Any:
        """What is answered first; where no worker is left and none fits any more, that is said."""
        told = working
        while True:
            done, _ = self._ray.wait(asked, num_returns=1, timeout=_LOOK_EVERY)
            if done:
                return done[0]
            if not told:
                note(f"Ray: {self._living()}; the others start, or wait for others to make room")
                told = True
            if not working and not self._cluster.fitting():
                raise NoWorkersError(
                    "--engine: no machine is left on which a worker fits; start nodes again, and "
                    "run the same command: nothing that was computed is lost"
                )

    def _mourn(self, actor: Any, lost: Lost) -> None:
        self.deaths += 1
        self._forget(actor)
        warn(
            f"a worker died ({lost.reason}) and is replaced; its log is in {self._logs}; "
            f"{self._living()}"
        )
        self._start()

    def _forget(self, actor: Any) -> None:
        self._made = [each for each in self._made if each is not actor]
        self._alive.pop(actor, None)
        self._ray.kill(actor)
