"""`prune --for`: the whole job on tiny models, what it composes with, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import depthprune as dp
from command import Command, Outcome
from depthprune.calibration import PRESETS, Preset
from depthprune.evaluator import Evaluator
from gguf_tiny import tiny_gguf

_FAST = ("--dtype", "float32", "--device", "cpu", "--no-bench")


@pytest.fixture(scope="module")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text that is to be kept: of one document, so cut into passages."""
    file = tmp_path_factory.mktemp("for") / "prose.txt"
    lines = (f"Line {i}: the river is {i * i % 97} feet high at the bridge." for i in range(500))
    file.write_text("\n\n".join(lines), encoding="utf-8")
    return file


@pytest.fixture(autouse=True)
def _small_default(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A default calibration of a few short windows: how much it reads is not what is tested."""
    file = tmp_path_factory.mktemp("default") / "default.txt"
    file.write_text("".join(f"def f{i}(x): return x + {i}\n" for i in range(400)), encoding="utf-8")
    spec = f"text:{file},windows=8,length=32"
    monkeypatch.setitem(PRESETS, "default", Preset((spec,), "small"))


@pytest.fixture
def portfolio(tmp_path: Path) -> Path:
    """Without text that the model writes, which takes a while."""
    file = tmp_path / "portfolio.yaml"
    file.write_text(
        "- {name: default, calibration: default, objective: nll}\n"
        "- {name: target, calibration: target}\n"
        "- {name: both, calibration: [target, default], draws: 2}\n",
        encoding="utf-8",
    )
    return file


@pytest.fixture
def prune(
    depthprune: Command, tiny_llama: Path, prose: Path, portfolio: Path, tmp_path: Path
) -> Callable[..., Outcome]:
    """Prunes two of six blocks for the prose."""

    def prune(*words: object, model: Path = tiny_llama, out: str = "out") -> Outcome:
        size = () if "--max-increase" in words else ("-k", 2)
        return depthprune(
            "prune", model, *size, "--for", f"text:{prose},length=16", "--portfolio", portfolio,
            "-o", tmp_path / out, *_FAST, *words,
        )  # fmt: skip

    return prune


def test_the_document_says_what_was_chosen_and_every_reader_sees_it(
    prune: Callable[..., Outcome], tmp_path: Path
) -> None:
    document = prune("--json").document
    target = document["target"]
    named = {each["name"] for each in target["calibrations"]} | {"consensus"}
    assert target["chosen"] in named
    assert document["removed"] in [each["removed"] for each in target["sets"]]
    assert [each["what"] for each in target["judged"]] == ["chosen", "default", "task", "whole"]
    chosen = target["judged"][0]
    assert (chosen["removed"], chosen["above"]) == (document["removed"], 0.0)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for text in (page, card):
        assert re.search(r"Of the calibrations tried for prose\\?\.txt, ", text)
    assert 'id="target"' in page


def test_what_is_reported_of_the_judged_part_is_what_an_evaluator_says_of_it(
    prune: Callable[..., Outcome], tiny_llama: Path, prose: Path
) -> None:
    from depthprune.pruning.target.options import parse_split
    from depthprune.pruning.target.split import split_target, target_specs

    target = prune("--json", "--seed", "3").document["target"]
    model = dp.load(tiny_llama, dtype="float32")
    specs = target_specs([f"text:{prose},length=16"])
    judge = split_target(specs, model, parse_split("50,25,25"), 3).judge
    evaluator = Evaluator(model, judge, "nll")
    for each in target["judged"]:
        (score,) = evaluator.score([each["removed"]])
        assert each["loss"]["loss"] == pytest.approx(score.loss, abs=1e-5)


def test_it_is_the_same_again_and_a_second_run_computes_nothing_that_the_first_did(
    prune: Callable[..., Outcome], tmp_path: Path
) -> None:
    memo = ("--memo", tmp_path / "memo.db")
    first, second = (prune("--json", "--overwrite", *memo).document for _ in range(2))
    assert second["search"]["cost"]["block_tokens"] == 0
    for document in (first, second):
        for step in document["target"]["rounds"]:
            del step["block_tokens"]
    assert first["target"] == second["target"]


@pytest.mark.slow
def test_workers_of_a_cluster_choose_what_one_process_does(
    prune: Callable[..., Outcome], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    memo, engine = tmp_path / "memo.db", ("--engine", "ray", "--workers", 2)
    alone = prune("--json", "--memo", tmp_path / "other.db", out="alone").document
    words = ("--json", "--memo", memo, *engine, "--cpus-per-worker", 0.5)
    spread, again = (prune(*words, "--overwrite", out="spread").document for _ in range(2))
    assert again["search"]["cost"]["block_tokens"] == 0
    for document in (alone, spread, again):
        for step in document["target"]["rounds"]:
            del step["block_tokens"]
        kept = ("removed", "target", "dense", "pruned", "blocks", "held_out")
        assert {key: document[key] for key in kept} == {key: alone[key] for key in kept}


def test_python_does_what_the_verb_does(
    prune: Callable[..., Outcome], tiny_llama: Path, prose: Path, portfolio: Path, tmp_path: Path
) -> None:
    said = prune("--json").document
    manifest = dp.prune(
        tiny_llama, 2, out=tmp_path / "python", target=f"text:{prose},length=16",
        portfolio=portfolio, dtype="float32", device="cpu", bench=False, memo="off",
    )  # fmt: skip
    assert manifest.target is not None
    assert manifest.removed == said["removed"]
    assert manifest.target.chosen == said["target"]["chosen"]


def test_max_increase_is_of_the_targets_loss(prune: Callable[..., Outcome]) -> None:
    document = prune("--json", "--max-increase", "30%").document
    target = document["target"]
    assert target["choosing"]["loss"] <= 1.3 * target["whole"]["loss"]
    assert document["removed"]


def test_max_increase_takes_all_that_may_go_where_the_target_allows_it(
    prune: Callable[..., Outcome],
) -> None:
    document = prune("--json", "--max-increase", "5000%", "--protect", "0-2,5").document
    assert document["removed"] == [3, 4]


def test_it_is_recovered_and_repeated_on_the_calibration_that_won(
    prune: Callable[..., Outcome],
) -> None:
    document = prune("--json", "--recover", "linear", "--draws", 2).document
    assert len(document["draws"]) == 1
    judged = document["recovery"]["further"][0]["calibration"]
    assert judged.startswith("text:")
    assert document["target"] is not None


def test_a_gguf_is_chosen_for_and_written_as_one(
    prune: Callable[..., Outcome], tmp_path: Path
) -> None:
    gguf = tiny_gguf(tmp_path / "tiny.gguf", tokenizer=True)
    assert prune("--json", model=gguf, out="out.gguf").document["target"]["chosen"]
    assert (tmp_path / "out.gguf").exists()


@pytest.mark.slow
def test_a_streamed_model_is_chosen_for_alike(prune: Callable[..., Outcome]) -> None:
    # Races and budgets count calls, which a streamed model lays out otherwise.
    alike = ("--json", "--memo", "off", "--exact", "--budget", "evaluations=200")
    whole, streamed = (
        prune(*alike, *words, out=out).document
        for words, out in (((), "whole"), (("--stream",), "streamed"))
    )
    assert streamed["removed"] == whole["removed"]
    assert streamed["target"]["chosen"] == whole["target"]["chosen"]


def test_a_dry_run_tells_what_it_costs_and_writes_nothing(
    prune: Callable[..., Outcome], tmp_path: Path
) -> None:
    plan = prune("--dry-run", "--json").document
    assert not (tmp_path / "out").exists()
    cost = prune("--json", "--memo", "off", "--exact").document["search"]["cost"]
    assert cost["block_tokens"] <= plan["block_tokens"] < 1.2 * cost["block_tokens"]


def test_a_calibration_that_is_given_is_tried_too(
    prune: Callable[..., Outcome], tmp_path: Path
) -> None:
    file = tmp_path / "other.txt"
    file.write_text(" ".join(f"apple{i} pear plum" for i in range(900)), encoding="utf-8")
    spec = f"text:{file},windows=8,length=32"
    target = prune("--json", "-c", spec).document["target"]
    assert f"{spec}, draw 2" in {each["name"] for each in target["calibrations"]}


def test_the_portfolio_is_printed(depthprune: Command) -> None:
    rows: Any = depthprune("calibrations", "portfolio", "--json").document["portfolio"]
    assert {"default", "target", "target-nll", "target-kl", "self"} <= {row["name"] for row in rows}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--budget", "3"), "the first round tries 6 calibrations and takes"),
        (("--for-split", "90,10"), "--for-split: expected three percentages"),
        (("--for-objective", "nonsense"), "objective 'nonsense'"),
        (("--for-objective", "option-ce"), "--for-objective option-ce: judges items of options"),
        (("--search-with-recovery", "--recover", "linear"), "means nothing with --for"),
        (("--portfolio", "MISSING"), "MISSING"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    words: tuple[str, ...],
    message: str,
    prune: Callable[..., Outcome],
    tmp_path: Path,
) -> None:
    outcome = prune(*words)
    assert outcome.status != 0
    assert message in outcome.error
    assert not (tmp_path / "out").exists()


def test_the_same_text_as_calibration_and_as_target_is_refused(
    depthprune: Command, tiny_llama: Path, prose: Path, portfolio: Path, tmp_path: Path
) -> None:
    spec = f"text:{prose},length=96"
    words = ("prune", tiny_llama, "-k", 2, "--for", spec, "--portfolio", portfolio, *_FAST)
    outcome = depthprune(*words, "-o", tmp_path / "out", "-c", f"{spec},windows=8")
    assert "with what is to choose and to judge" not in outcome.out
    assert "of what is to choose and to judge of --for" in outcome.error


@pytest.mark.parametrize("flag", ["--for-objective", "--portfolio", "--keep-general"])
def test_flags_that_need_a_target_are_refused_without_one(
    flag: str, depthprune: Command, tiny_llama: Path, spec: str, tmp_path: Path
) -> None:
    value = "5%" if flag == "--keep-general" else "nll"
    outcome = depthprune(
        "prune", tiny_llama, "-k", 2, "-c", spec, "-o", tmp_path / "out", flag, value
    )
    assert f"{flag}: means nothing without --for" in outcome.error


def test_items_at_chance_are_refused_since_nothing_can_be_chosen_on_them(
    depthprune: Command, tiny_llama: Path, tmp_path: Path, portfolio: Path
) -> None:
    file = tmp_path / "items.jsonl"
    rows = ({"prompt": f"Is {i * i} odd?", "options": ["yes", "no"], "answer": (i * 7) % 2}
            for i in range(80))  # fmt: skip
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    words = ("prune", tiny_llama, "-k", 2, "--for", f"choices:{file}", "--portfolio", portfolio)
    outcome = depthprune(*words, "-o", tmp_path / "out", *_FAST)
    assert "nothing can be chosen on it, since the whole model is at chance" in outcome.error
    assert "chance gives 50.0%" in outcome.error
