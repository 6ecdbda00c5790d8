"""Chat templates run in a process of their own, which is stopped when one knows no end.

A template is a program that came with a model. transformers' sandbox keeps it from files; nothing
keeps it from looping for ever or from doubling a text until memory is gone, and a single operation
of it (`9**9**9`) can do either without giving anyone in its process a chance to interrupt. So one
process, started with the first conversation, writes all of them with transformers' own function.
While it is at one for longer than a moment, its time and its memory are looked at from here. What
it answers is JSON, which can do nothing here.
"""

from __future__ import annotations

import atexit
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from depthprune.errors import CalibrationError
from depthprune.untrusted import LARGEST

MOST_SECONDS = 10
"""For one conversation, which takes milliseconds."""

MOST_MEMORY = 1 << 30
"""Bytes that the process may hold; it holds a tenth of them before it writes anything."""

_LOOK = 0.05
_MOST_AHEAD = 256
_CHILD = (
    "import sys; sys.path[:] = {path!r}; "
    "from depthprune.calibration.reading.rendering_process import serve; serve()"
)

Written = tuple[str, list[tuple[int, int]]]
"""A text, and where the template's own `{% generation %}` lies in it."""

_Answer = tuple[bool, str, list[tuple[int, int]]]
"""Whether it was accepted; the text, or why not."""


class RefusedError(Exception):
    """The template, or transformers, does not accept the conversation; the message is theirs."""


class EndlessError(Exception):
    """The template was stopped; the message says at what."""


def write(request: dict[str, Any]) -> Written:
    """What transformers' `render_jinja_template` makes of one conversation, within bounds.

    Args:
        request: Its arguments.

    Raises:
        RefusedError: If it raises an error.
        EndlessError: If it takes more time or memory than any honest template does.
        CalibrationError: If no process can be started.
    """
    return _writer(os.getpid()).write(request)


def write_ahead(requests: Sequence[dict[str, Any]]) -> None:
    """Have what `write` is about to be asked for written at once, which takes the process one turn.

    Args:
        requests: As `write` takes them. One that is refused is so when it is asked for.

    Raises:
        EndlessError: As `write` does.
        CalibrationError: As `write` does.
    """
    _writer(os.getpid()).write_ahead(requests)


@cache
def _writer(_: int) -> _Writer:
    """The process of this process; one that was forked off must not share its pipes."""
    writer = _Writer()
    atexit.register(writer.stop)
    return writer


class _Writer:
    """The process as seen from here."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()  # One conversation at a time.
        self._state = threading.Lock()
        self._busy = threading.Event()
        self._begun = 0.0
        self._stopped = ""
        self._ahead: dict[bytes, _Answer] = {}

    def write(self, request: dict[str, Any]) -> Written:
        sent = pickle.dumps(request, pickle.HIGHEST_PROTOCOL)
        with self._turn:
            known: _Answer | None = self._ahead.pop(sent, None)
            fits, text, spans = self._answers([sent])[0] if known is None else known
        if not fits:
            raise RefusedError(text)
        return text, spans

    def write_ahead(self, requests: Sequence[dict[str, Any]]) -> None:
        sent = [pickle.dumps(request, pickle.HIGHEST_PROTOCOL) for request in requests]
        with self._turn:
            if len(self._ahead) > _MOST_AHEAD:
                self._ahead.clear()  # what was not asked for after all
            self._ahead |= zip(sent, self._answers(sent), strict=True)

    def _answers(self, sent: list[bytes]) -> list[_Answer]:
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self._start()
        try:
            return self._exchange(sent)
        except BaseException as error:
            # Whatever happened, its next answer would be to an older question.
            self.stop()
            if isinstance(error, (EOFError, OSError, TypeError, ValueError)):
                raise EndlessError(self._stopped or "it ended its process") from error
            raise

    def _exchange(self, sent: list[bytes]) -> list[_Answer]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        self._begun = time.monotonic()
        self._busy.set()
        answers: list[_Answer] = []
        try:
            # All is read there before anything is answered, so neither waits for the other.
            pickle.dump(sent, process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            for _ in sent:
                self._begun = time.monotonic()
                fits, text, spans = _read_answer(process)
                places = [(int(start), int(end)) for start, end in spans]
                answers.append((bool(fits), str(text), places))
        finally:
            with self._state:
                self._busy.clear()
        if self._stopped:
            raise EOFError
        return answers

    def _start(self) -> None:
        command = _CHILD.format(path=[str(Path(each).absolute()) for each in sys.path])
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except (OSError, ValueError) as error:
            _cannot_start(error)
        self._process, self._stopped = process, ""
        try:
            _read_answer(process)
        except BaseException as error:
            self.stop()
            if isinstance(error, (EOFError, ValueError)):
                _cannot_start(error)
            raise
        threading.Thread(target=self._watch, args=[process], daemon=True).start()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Stop the process when one conversation takes too much."""
        while process is self._process:
            if not self._busy.wait(1):
                continue
            begun = self._begun
            time.sleep(_LOOK)
            if self._begun != begun or not (why := _excess(process.pid, begun)):
                continue
            with self._state:
                if self._busy.is_set() and self._begun == begun:
                    self._stopped = why
                    process.kill()
                    return

    def stop(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:  # What it would not read any more.
                pass
        process.wait()


def _read_answer(process: subprocess.Popen[bytes]) -> Any:
    """The process's next answer, one line of JSON."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return json.loads(line)


def _cannot_start(error: BaseException) -> NoReturn:
    raise CalibrationError(
        "chat templates are run by a process of their own, and Python could not start one "
        f"({sys.executable}); pass format=plain"
    ) from error


def _excess(process: int, begun: float) -> str:
    """What a process that began something has too much of."""
    if time.monotonic() - begun > MOST_SECONDS:
        return f"it takes over {MOST_SECONDS} seconds"
    if (_resident(process) or 0) > MOST_MEMORY:
        return f"it takes over {MOST_MEMORY >> 20:,} MiB of memory"
    return ""


if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    class _Counters(ctypes.Structure):
        _fields_ = [
            ("cb", wintypes.DWORD),
            ("PageFaultCount", wintypes.DWORD),
            *(
                (name, ctypes.c_size_t)
                for name in (
                    "PeakWorkingSetSize",
                    "WorkingSetSize",
                    "QuotaPeakPagedPoolUsage",
                    "QuotaPagedPoolUsage",
                    "QuotaPeakNonPagedPoolUsage",
                    "QuotaNonPagedPoolUsage",
                    "PagefileUsage",
                    "PeakPagefileUsage",
                )
            ),
        ]

    def _resident(process: int) -> int | None:
        """Bytes of memory that a process holds; None if the system does not say."""
        kernel = ctypes.WinDLL("kernel32")
        kernel.OpenProcess.restype = wintypes.HANDLE
        handle = wintypes.HANDLE(kernel.OpenProcess(0x1000, False, process))
        counters = _Counters(cb=ctypes.sizeof(_Counters))
        try:
            known = kernel.K32GetProcessMemoryInfo(handle, ctypes.byref(counters), counters.cb)
        finally:
            kernel.CloseHandle(handle)
        return int(counters.PagefileUsage) if known else None

else:

    def _resident(process: int) -> int | None:
        """Bytes of memory that a process holds; None if the system does not say."""
        try:
            if (held := Path(f"/proc/{process}/statm")).exists():
                return int(held.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
            command = ["ps", "-o", "rss=", "-p", str(process)]
            return int(subprocess.run(command, capture_output=True, check=True).stdout) * 1024
        except (OSError, ValueError, IndexError, subprocess.SubprocessError):
            return None


def serve() -> None:
    """Write the conversations that come through standard input; the other process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    from transformers.utils.chat_template_utils import render_jinja_template

    answers.write(b"null\n")
    answers.flush()
    while True:
        try:
            requests = pickle.load(asked)
        except EOFError:
            return
        for request in requests:
            answer = _answer(render_jinja_template, request)
            answers.write(json.dumps(answer).encode() + b"\n")
            answers.flush()


def _answer(render: Callable[..., Any], request: bytes) -> _Answer:
    try:
        (text,), spans = render(**pickle.loads(request))
        if len(text) > LARGEST:
            raise OverflowError(f"it gives a text of {len(text):,} characters")
        return True, str(text), [*spans[0]] if spans else []
    except Exception as error:
        return False, str(error).strip()[:2000] or type(error).__name__, []
