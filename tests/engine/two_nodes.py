"""Two machines on one: a cluster's second node in a network namespace of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

_SPACE, _NEAR, _FAR = "depthprune", "10.213.77.1", "10.213.77.2"
_PORT = 6399
_OPEN = {**os.environ, "RAY_AUTH_MODE": "disabled"}
"""Nodes of one machine need no token to trust each other."""


def possible() -> str | None:
    """Why it cannot be done here, if it cannot."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        return "network namespaces need root and the program ip"
    if _ip("netns", "add", _SPACE, check=False):
        return "network namespaces cannot be made here"
    _ip("netns", "del", _SPACE)
    return None


@dataclass
class TwoNodes:
    """A cluster of a head here and a node in the namespace, a processor each."""

    address: str
    far: list[int]

    def kill_far(self) -> None:
        """End the second node, and all that runs on it, without a word."""
        for pid in self.far:
            os.kill(pid, signal.SIGKILL)
        for process in psutil.process_iter():
            if _in_space(process.pid):
                process.kill()


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """Start both nodes, and end them."""
    # Names of sockets are short.
    folder = tempfile.mkdtemp(prefix="dpr")
    _ip("netns", "add", _SPACE)
    try:
        _ip("link", "add", "dp-near", "type", "veth", "peer", "name", "dp-far", "netns", _SPACE)
        _ip("addr", "add", f"{_NEAR}/30", "dev", "dp-near")
        _ip("link", "set", "dp-near", "up")
        inside = ("-n", _SPACE)
        _ip(*inside, "addr", "add", f"{_FAR}/30", "dev", "dp-far")
        _ip(*inside, "link", "set", "dp-far", "up")
        _ip(*inside, "link", "set", "lo", "up")
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus=1"]
        ray += ["--disable-usage-stats", f"--temp-dir={folder}"]
        head = ["--head", f"--node-ip-address={_NEAR}", f"--port={_PORT}"]
        _run(*ray, *head, "--include-dashboard=false")
        far = [f"--address={_NEAR}:{_PORT}", f"--node-ip-address={_FAR}"]
        _run("ip", "netns", "exec", _SPACE, *ray[:-1], *far)
        nodes = psutil.process_iter(["name"])
        raylets = [p.pid for p in nodes if _in_space(p.pid) and "raylet" in (p.info["name"] or "")]
        yield TwoNodes(f"{_NEAR}:{_PORT}", raylets)
    finally:
        _end(folder)
        _ip("netns", "del", _SPACE, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _end(folder: str) -> None:
    """Kill what was started here; `ray stop` would end every other cluster of the machine too."""
    for process in psutil.process_iter(["cmdline"]):
        if not _in_space(process.pid) and folder not in " ".join(process.info["cmdline"] or ()):
            continue
        with suppress(psutil.Error):  # it may end while it is looked at
            for each in (*process.children(recursive=True), process):
                with suppress(psutil.Error):
                    each.kill()


def _in_space(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(f"/run/netns/{_SPACE}").st_ino
    except OSError:
        return False


def _ip(*words: str, check: bool = True) -> int:
    return _run("ip", *words, check=check)


def _run(*words: str, check: bool = True) -> int:
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=180, env=_OPEN
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout}\n{done.stderr}")
    return done.returncode
