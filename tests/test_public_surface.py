"""`import depthprune` gives the curated names, and surgery without torch."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import depthprune
from tiny import save_text


@pytest.mark.parametrize("name", depthprune.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(depthprune, name).__doc__
    assert name in dir(depthprune)


def test_every_name_that_is_imported_late_is_public_and_typed() -> None:
    tree = ast.parse(Path(depthprune.__file__).read_text(encoding="utf-8"))
    typed = {
        alias.name
        for node in tree.body
        if isinstance(node, ast.If)
        for line in node.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }
    assert set(depthprune._PLACES) == typed <= set(depthprune.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'depthprune' has no attribute 'prun'"):
        _ = depthprune.prun


def test_public_names_are_sorted() -> None:
    assert list(depthprune.__all__) == sorted(depthprune.__all__)


def _heavy_after(code: str) -> str:
    heavy = "{'torch', 'transformers', 'matplotlib'}"
    code = f"{code}; import sys; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert _heavy_after("import depthprune; depthprune.__version__") == "[]"


def test_surgery_loads_no_torch(tiny_llama: Path, tmp_path: Path) -> None:
    code = "import sys, depthprune; depthprune.apply(sys.argv[1], '1,3', sys.argv[2])"
    code += "; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code, str(tiny_llama), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"
    assert (tmp_path / "out" / "depthprune.json").is_file()


def test_the_command_line_s_help_loads_nothing_heavy() -> None:
    code = "import depthprune.cli as c; c._run(['prune', '--help'], False)"
    assert _heavy_after(code).endswith("[]")


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(depthprune.__file__).parent / "py.typed").is_file()


def test_the_command_line_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "depthprune", "--version"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout == f"depthprune {depthprune.__version__}\n"


@pytest.fixture(scope="module")
def evaluator(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> depthprune.Evaluator:
    text = save_text(tmp_path_factory.mktemp("text") / "a.txt")
    model = depthprune.load(tiny_llama, dtype="float32", device="cpu")
    calibration = depthprune.calibrate(f"text:{text},windows=4,length=32", model)
    return depthprune.Evaluator(model, calibration)


def test_what_python_shows_of_what_is_large_is_a_line(evaluator: depthprune.Evaluator) -> None:
    model, calibration = evaluator.model, evaluator.calibration
    assert repr(model).endswith(", 6 blocks, float32 on cpu)")
    assert repr(calibration).endswith(f"4 windows, 128 tokens, {calibration.fingerprint[:12]})")
    assert repr(evaluator) == f"Evaluator({model!r}, {calibration!r}, 'nll')"


def test_a_model_that_was_searched_can_be_sent_to_another_process(
    evaluator: depthprune.Evaluator,
) -> None:
    depthprune.search("greedy", evaluator, k=1)
    sent = pickle.loads(pickle.dumps((evaluator.model, evaluator.calibration)))
    assert depthprune.Evaluator(*sent).score([(1, 2)]) == evaluator.score([(1, 2)])
    assert sent[0].refusal((1,)) is None
