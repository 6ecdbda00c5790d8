"""The tests of what rounding could upset, and a short demo, on each kind of processor at hand.

oneDNN, which multiplies for torch on x86, can be told to leave instructions alone: without AMX, or
without AVX-512, another kernel runs, adds up in another order and rounds otherwise. Which kernels
this processor really has is asked of oneDNN itself, and a setting that would only repeat another
one's is left out, and said to be.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SETTINGS = ("AVX2", "AVX512_CORE_BF16", None)
VARIABLE = "ONEDNN_MAX_CPU_ISA"
TESTS = (
    "tests/models/blocks/test_anatomy.py",
    "tests/models/parity/test_parity.py",
    "tests/evaluator/test_evaluator.py",
    "tests/evaluator/test_memo.py",
    "tests/evaluator/test_resume.py",
)
DEMO = (
    *("prune", "demo", "-k", "2", "--search", "one-shot", "--no-bench", "--memo", "off"),
    *("-c", "stdlib-prose,windows=2,length=32", "-c", "stdlib-code,windows=2,length=32"),
)
DTYPES = ("bfloat16", "float32")
_ASK = "import torch; torch.backends.mkldnn.is_available() and torch.ones(4, 4).to_mkldnn()"


def environment(setting: str | None) -> dict[str, str]:
    """The environment in which oneDNN is held to a setting."""
    plain = {key: value for key, value in os.environ.items() if key != VARIABLE}
    return plain | ({VARIABLE: setting} if setting else {})


def instructions(setting: str | None) -> str:
    """What oneDNN says it would use, in its own words; empty where torch is built without it."""
    asked = environment(setting) | {"ONEDNN_VERBOSE": "1"}
    words = [sys.executable, "-c", _ASK]
    done = subprocess.run(words, env=asked, capture_output=True, text=True, check=True)
    found = re.search(r"\bisa:(.+)", done.stdout)
    return found[1].strip() if found else ""


def distinct(found: dict[str | None, str]) -> list[str | None]:
    """Settings that this processor can show: the most of its own first, then what differs."""
    shown: dict[str, str | None] = {}
    for setting in sorted(found, key=lambda setting: setting is not None):
        shown.setdefault(found[setting], setting)
    return list(shown.values())


def passes(setting: str | None) -> bool:
    """Whether tests and demo exit 0 under a setting."""
    pytest = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "not slow and not census and not gpu",
        *TESTS,
    ]
    good = subprocess.run(pytest, env=environment(setting), check=False).returncode == 0
    main = [sys.executable, "-m", "depthprune"]
    for dtype in DTYPES:
        with tempfile.TemporaryDirectory() as folder:
            out = ["--dtype", dtype, "-o", str(Path(folder) / "out")]
            done = subprocess.run([*main, *DEMO, *out], env=environment(setting), check=False)
        good = good and done.returncode == 0
    return good


def main() -> None:
    found = {setting: instructions(setting) for setting in SETTINGS}
    shown = distinct(found)
    for setting, words in found.items():
        can = "shown" if setting in shown else "not to be shown here: the same as another"
        print(f"{VARIABLE}={setting or 'unset'}: {words or 'no oneDNN'}, {can}", flush=True)
    failed = []
    for setting in shown:
        print(f"\n== {VARIABLE}={setting or 'unset'}", flush=True)
        if not passes(setting):
            failed.append(setting or "unset")
    sys.exit(f"failed under {VARIABLE} = {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
