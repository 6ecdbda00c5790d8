import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from depthprune.cli import tables
from depthprune.manifest import BlockScore, Estimate, SourceModel
from depthprune.pruning.bench import BenchedModel
from report.examples import block_scores, estimate, full, minimal, sample


def printed(renderable, width=80):
    """What reaches a pipe."""
    stream = io.StringIO()
    Console(file=stream, width=width).print(renderable)
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    assert "\x1b" not in stream.getvalue()
    return "\n".join(lines)


def cells(text, start):
    line = next(line for line in text.splitlines() if line.strip().startswith(start))
    return [part.strip() for part in line.split("  ") if part.strip()]


def bench_rows():
    speed = full().speed
    return [
        BenchedModel(
            "demo", 134_515_008, 269_060_552, speed.prefill_before, speed.decode_before, 812_000_000
        ),
        BenchedModel(
            "out/demo", 113_278_464, 226_584_320, speed.prefill_after, speed.decode_after, None
        ),
    ]


def test_the_summary_compares_both_models_in_80_columns():
    text = printed(tables.prune_summary(full(), Path("out/demo/report.html")))
    assert cells(text, "blocks") == ["blocks", "30", "24", "−20%"]
    assert cells(text, "parameters") == ["parameters", "134.5M", "113.3M", "−16%"]
    assert cells(text, "bytes") == ["bytes as safetensors", "269.1 MB", "226.6 MB", "−16%"]
    assert cells(text, "perplexity, stdlib-code") == [
        "perplexity, stdlib-code", "4.11 ± 0.29", "9.04 ± 0.74", "× 2.201 ± 0.072",
    ]  # fmt: skip
    assert cells(text, "prefill") == ["prefill, tokens/s", "1,204", "1,469", "× 1.22"]
    assert cells(text, "decode") == ["decode, tokens/s", "18.4", "22.7", "× 1.23"]
    assert "returns the number of bytes read" in text
    assert "can be used in the same way" in text
    assert "bitwise equal in bfloat16" in text
    assert cells(text, "report") == ["report", "out/demo/report.html"]


def test_the_summary_of_surgery_alone_is_short():
    text = printed(tables.prune_summary(minimal()))
    assert "perplexity" not in text
    assert "Not checked" in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_long_name_does_not_break_the_table(width):
    model = SourceModel(name="x" * 300, kind="folder", model_type="llama", blocks=30)
    assert "134.5M" in printed(tables.prune_summary(full(model=model)), max(width, 80))


def test_what_others_wrote_is_neither_markup_nor_control():
    text = "[bold]a[/bold] \x1b[31mred\x07"
    manifest = full(
        model=SourceModel(name=text, kind="folder", model_type="llama", blocks=30),
        sample=sample().model_copy(update={"after": text}),
    )
    assert printed(tables.prune_summary(manifest)).count("[bold]a[/bold]") == 2


def test_scores_come_with_a_bar():
    text = printed(tables.score_table(block_scores(), estimate(3.106, 0.052)))
    assert "loss of the whole model 3.106 ± 0.052, 16 windows, 8,176 tokens" in text
    assert cells(text, "0 ")[1:] == ["12.977 ± 0.052", "+9.87 ± 0.60", "█" * 20 + "»"]
    assert cells(text, "1 ")[-1] == "█" * 20
    assert cells(text, "12 ")[2] == "+0.0790 ± 0.0087"


def test_a_score_that_is_not_finite_has_no_bar():
    nan = math.nan
    score = BlockScore(block=0, loss=nan, stderr=nan, increase=nan, increase_stderr=nan)
    assert cells(printed(tables.score_table([score], estimate(3.1, 0.05))), "0")[1:] == [
        "NaN", "NaN",
    ]  # fmt: skip


def test_each_calibration_is_a_row():
    loss = Estimate(loss=0.2, stderr=0.01, windows=3, tokens=333)
    text = printed(
        tables.evaluate_table(
            [
                ("text:../data/test.txt,windows=64,length=512", "nll", estimate(3.2, 0.04)),
                ("stdlib-code", "kl", loss),
            ]
        )
    )
    assert cells(text, "test.txt")[1:] == [
        "nll", "3.200 ± 0.040", "24.53 ± 0.98", "16", "8,176",
    ]  # fmt: skip
    assert cells(text, "stdlib-code")[1:] == ["kl", "0.200 ± 0.010", "–", "3", "333"]


def test_files_of_one_name_are_told_apart():
    rows = [(f"text:{folder}/test.txt,windows=4", "nll", estimate(3.2, 0.04)) for folder in "ab"]
    text = printed(tables.evaluate_table(rows), 120)
    assert "a/test.txt" in text
    assert "b/test.txt" in text


def test_two_models_are_compared_by_ratio():
    text = printed(tables.bench_table(bench_rows()))
    assert cells(text, "prefill") == [
        "prefill, tokens/s", "1,204 (1,171–1,220)", "1,469 (1,423–1,488)", "× 1.22",
    ]  # fmt: skip
    assert cells(text, "weights in memory") == ["weights in memory", "812 MB", "–"]


def test_one_model_needs_no_ratio():
    assert "ratio" not in printed(tables.bench_table(bench_rows()[:1]))


def test_memory_that_nobody_read_is_left_out():
    assert "weights in memory" not in printed(tables.bench_table(bench_rows()[1:]))
