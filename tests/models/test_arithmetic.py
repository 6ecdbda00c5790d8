"""What is kept for other runs is kept under what the device computes, and nothing is mixed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import depthprune as dp
from depthprune.calibration import generated
from depthprune.evaluator import Memo
from depthprune.models import arithmetic as module
from depthprune.models.arithmetic import arithmetic, arithmetic_of
from depthprune.recovery import plan_key
from depthprune.recovery.methods import LoRA
from hostile import hostile_arithmetic

CPU = torch.device("cpu")


@pytest.fixture
def model(tiny_llama: Path) -> dp.Model:
    return dp.load(tiny_llama, dtype="bfloat16", device="cpu")


@pytest.fixture
def _computed_anew() -> Iterator[None]:
    """What this process found of its device is forgotten, before and behind the test."""
    module._of_device.cache_clear()
    yield
    module._of_device.cache_clear()


def test_the_same_arithmetic_is_the_same_and_another_dtype_another() -> None:
    found = arithmetic([CPU], "bfloat16")
    module._of_device.cache_clear()
    assert arithmetic([CPU], "bfloat16") == found
    others = {arithmetic([CPU], name) for name in ("float32", "float16")}
    assert len({found, *others}) == 3


@pytest.mark.usefixtures("_computed_anew")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_products_that_round_otherwise_are_another(dtype: str) -> None:
    found = arithmetic([CPU], dtype)
    module._of_device.cache_clear()
    with hostile_arithmetic():
        assert arithmetic([CPU], dtype) != found


def test_another_number_of_threads_is_another() -> None:
    found = arithmetic([CPU], "float32")
    assert found.startswith("1 thread, ")
    torch.set_num_threads(2)
    try:
        assert arithmetic([CPU], "float32").startswith("2 threads, ")
        assert arithmetic([CPU], "float32").split()[-1] != found.split()[-1]
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_another_library_is_another(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = arithmetic([CPU], "float32")
    monkeypatch.setattr(getattr(module, library), "__version__", "99.0")
    assert arithmetic([CPU], "float32") != found


def test_another_process_finds_the_same() -> None:
    script = (
        "import torch; torch.set_num_threads(1); from depthprune.models.arithmetic import *; "
        "print(arithmetic([torch.device('cpu')], 'bfloat16'))"
    )
    words = [sys.executable, "-c", script]
    other = subprocess.run(words, capture_output=True, text=True, env=os.environ, check=True)
    assert other.stdout.strip() == arithmetic([CPU], "bfloat16")


@pytest.mark.skipif("avx512_bf16" not in Path("/proc/cpuinfo").read_text(), reason="no AVX512_BF16")
def test_a_processor_whose_units_are_hidden_is_another() -> None:
    script = "import torch; from depthprune.models.arithmetic import *; "
    script += "torch.set_num_threads(1); print(arithmetic([torch.device('cpu')], 'bfloat16'))"
    found = set()
    for units in ("AVX2", "AVX512_CORE", "AVX512_CORE_BF16"):
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": units}
        words = [sys.executable, "-c", script]
        other = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
        found.add(other.stdout)
    assert len(found) == 3


@pytest.mark.usefixtures("_computed_anew")
def test_a_memo_of_another_arithmetic_gives_nothing(model: dp.Model, tmp_path: Path) -> None:
    calibration = dp.calibrate("stdlib-prose,windows=2,length=32", model)
    with Memo.open(tmp_path / "memo.sqlite") as memo:
        dp.Evaluator(model, calibration, memo=memo).score([(1,)])
        module._of_device.cache_clear()
        with hostile_arithmetic():
            other = dp.Evaluator(model, calibration, memo=memo)
            other.score([(1,)])
            again = dp.Evaluator(model, calibration, memo=memo)
            again.score([(1,)])
    assert other.cost.recalled == 0
    assert again.cost.recalled == 2


@pytest.mark.usefixtures("_computed_anew")
def test_text_of_its_own_that_another_arithmetic_wrote_is_not_read(model: dp.Model) -> None:
    spec = "self,windows=2,length=16"
    dp.calibrate(spec, model)
    folder = generated.cache_folder() / "self"
    assert len(list(folder.glob("*.json"))) == 1
    dp.calibrate(spec, model)
    assert len(list(folder.glob("*.json"))) == 1
    module._of_device.cache_clear()
    with hostile_arithmetic():
        dp.calibrate(spec, model)
    assert len(list(folder.glob("*.json"))) == 2


def test_a_training_on_another_arithmetic_is_another_training(
    model: dp.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = dp.calibrate("stdlib-prose,windows=2,length=32", model)
    key = plan_key(model, [1], calibration, LoRA())
    assert plan_key(model, [1], calibration, LoRA()) == key
    monkeypatch.setattr(module, "_of_device", lambda *_: "another")
    assert plan_key(model, [1], calibration, LoRA()) != key


def test_a_model_on_several_devices_is_told_by_all_of_them(
    model: dp.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert arithmetic_of(model) == arithmetic([CPU], "bfloat16")
    monkeypatch.setattr(module, "_of_device", lambda name, *_: name)
    both = arithmetic([CPU, torch.device("cuda:0")], "bfloat16")
    assert both == arithmetic([torch.device("cuda:0"), CPU], "bfloat16")
    other = arithmetic([CPU, torch.device("cuda:1")], "bfloat16")
    assert len({both, other, arithmetic([CPU], "bfloat16")}) == 3
    assert "thread" not in arithmetic([torch.device("cuda:0")], "bfloat16")
