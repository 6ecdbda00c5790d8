import base64
import csv
import hashlib
import itertools
import json
import math
import re

import pytest

from depthprune.report.templating import source
from depthprune.study.finalists import FinalRow, FinalScore
from depthprune.study.plan import Margin, Stated
from depthprune.study.report import cells, tables
from depthprune.study.report.effects import effect_table, gain_table
from depthprune.study.statistics.effects import analyse
from depthprune.study.statistics.quality import quality_against_cost
from depthprune.study.table import DenseRow, Table
from report.test_page import CHROMIUM, Page, browse, words
from study.planted import (
    Grid,
    calibration_only,
    noise_only,
    own_domain_only,
    render_study,
    search_only,
)
from study.statistics.test_intervals import by_item

EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)">$\\frac{'
FEW = {"sources": ("prose", "code"), "searches": ("one-shot", "greedy")}


def judged(row, perplexity):
    first, *rest = row.evaluations
    changed = first.model_copy(update={"value": perplexity})
    return row.model_copy(update={"evaluations": (changed, *rest)})


def table(rows):
    return Table("b3:ab12", tuple(rows))


@pytest.fixture(scope="module")
def text():
    return render_study(table(calibration_only()), plan="models: [smol]\n")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_the_answer_comes_first(page):
    text = words(page)
    assert text.index("Calibration mattered more than search for log-perplexity") < text.index(
        "What else was found"
    )
    assert "the calibration explains 99.99%" in text


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (search_only(**FEW), "Search mattered more than calibration"),
        (noise_only(**FEW), "Neither calibration nor search can be told from noise"),
        (
            calibration_only(draws=1, searches=("greedy", "beam")),
            "what the draw alone does is not known",
        ),
        (calibration_only(searches=("greedy",)), "there is one search only that every draw saw"),
        (calibration_only(changes={"evaluations": ()}), "The cells share no evaluation"),
        ([], "No cell of the table ran"),
        (
            [row.model_copy(update={"error": "no memory"}) for row in noise_only(draws=1)],
            "16 of 16 cells failed",
        ),
        (
            [judged(row, math.inf) for row in noise_only(**FEW)],
            "12 of 12 cells that ran have an evaluation that is not finite",
        ),
        (
            [judged(noise_only(**FEW)[0], math.inf), *noise_only(**FEW)[1:]],
            "1 of 12 cells that ran have an evaluation that is not finite",
        ),
        (
            [
                row.model_copy(update={"evaluations": row.evaluations[: 2 if i else 1]})
                for i, row in enumerate(noise_only(**FEW))
            ],
            "Not every cell was judged on arc-easy (accuracy)",
        ),
        (
            noise_only(sources=("prose",), searches=("one-shot", "greedy")),
            "changing the search moved log-perplexity by",
        ),
    ],
    ids=[
        "search",
        "noise",
        "one draw",
        "one search",
        "not judged",
        "empty",
        "failed",
        "infinite",
        "one infinite",
        "not all judged",
        "one calibration",
    ],
)
def test_the_page_says(rows, expected):
    parsed = Page(render_study(table(rows)))
    assert parsed.open == []
    assert expected in words(parsed)
    assert not re.search(r"\bnan\b", words(parsed), re.IGNORECASE)


def test_every_section_has_its_figure_and_tables(page):
    ids = [a["id"] for a in page.all("section")]
    assert ids == [
        "more", "effects", "masks", "overlap", "variance", "ranks", "standings", "transfer",
        "spread", "cost", "cells", "plan",
    ]  # fmt: skip
    assert len(page.all("figure")) == 8
    assert len(page.all("table")) == len(page.all("caption")) == 15


def test_the_whole_model_stands_beside_the_sets_and_the_page_says_what_intervals_are_of():
    rows = noise_only(**FEW)
    dense = DenseRow(model="smol", blocks=30, evaluations=rows[0].evaluations)
    of_rows = Table("b3:ab12", tuple(rows), (dense,))
    text = words(Page(render_study(of_rows)))
    assert "none: the whole model" in text
    assert "without 6, by greedy" in text
    assert "whose own error is not in them since results were not kept by item" in text
    kept = words(Page(render_study(table(by_item(rows)))))
    assert "and of these very windows and items" in kept
    only = [row.model_copy(update={"evaluations": row.evaluations[1:]}) for row in by_item(rows)]
    assert "and further windows and items of the same texts" in words(
        Page(render_study(table(only)))
    )


def test_what_an_answer_rests_on_stands_beside_it(page):
    text = words(page)
    rests = text.index("The answer would be the same without any one source: the difference")
    assert text.index("Calibration mattered more than search for log-perplexity") < rests
    assert rests < text.index("Calibration mattered more than search for accuracy")


def test_the_page_says_what_the_plan_stated_beforehand():
    of = table(noise_only(**FEW))
    stated = Stated(Margin(perplexity=0.05), has_margin=True, has_test=True)
    assert (
        "Stated in the plan before it ran: tests are joint, and effects that differ by less than "
        "0.05 in log-perplexity and 1 point of accuracy count as alike."
    ) in words(Page(render_study(of, stated=stated)))
    assert (
        "The plan stated no margin before it ran; by default effects that differ by less than "
        "0.02 in log-perplexity and 1 point of accuracy count as alike."
    ) in words(Page(render_study(of)))


def test_parts_are_named_where_there_are_several():
    rows = calibration_only(models=("a", "b"), **FEW)
    rows += noise_only(models=("a",), kind="choices", **FEW)
    text = words(Page(render_study(table(rows))))
    for name in ("a, text calibrations", "a, choices calibrations", "b, text calibrations"):
        assert name in text


def test_markup_in_what_others_wrote_is_shown_and_not_run():
    rows = [
        row.model_copy(
            update={
                "model": EVIL,
                "objective": EVIL,
                "search": row.search + EVIL,
                "calibration": row.calibration.model_copy(
                    update={"name": row.calibration.name + EVIL, "source": EVIL}
                ),
                "evaluations": tuple(
                    each.model_copy(update={"name": each.name + EVIL}) for each in row.evaluations
                ),
                "error": EVIL if i == 0 else None,
            }
        )
        for i, row in enumerate(noise_only(**FEW))
    ]
    parsed = Page(render_study(table(rows), plan=EVIL, title=EVIL))
    assert len(parsed.all("script")) == 1
    assert parsed.all("img") == []
    assert EVIL in parsed.text


def test_finalists_stand_beside_the_whole_model_and_markup_in_them_is_not_run():
    def final(removed, value, **changes):
        score = FinalScore(task=EVIL, metric="acc", value=value, stderr=0.02, n=200)
        facts = {
            "model": EVIL, "blocks": 6, "k": len(removed), "removed": removed, "kind": "task",
            "name": EVIL, "scores": (score,), "seconds": 1.0,
        }  # fmt: skip
        return FinalRow.model_validate({**facts, **changes})

    finals = [
        final((), 0.6),
        final((2, 3), 0.51),
        final((4, 5), 0.0, scores=(), error=f"cannot {EVIL}"),
    ]
    parsed = Page(render_study(table(noise_only(**FEW)), finals=finals))
    assert len(parsed.all("script")) == 1
    assert parsed.all("img") == []
    text = words(parsed)
    assert "2, 3" in text
    assert text.count("0.510 ± 0.020") == 1
    # Its own value, the same again as what it is compared with, and beside the finalist.
    assert text.count("0.600 ± 0.020") == 3
    assert "none: the whole model" in text
    assert f"failed: cannot {EVIL}" in parsed.text
    assert [a["id"] for a in parsed.all("section")][-2:] == ["finalists", "cells"]


def test_nothing_is_fetched_and_only_the_page_s_script_may_run(text, page):
    assert set(re.findall(r"https?://[^\"' <]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in text
    script = source("study.js", "depthprune.study.report")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_the_page_is_one_for_a_reader_of_any_kind(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [a["id"] for _, a in page.elements if a.get("id")]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.all("a")} <= set(ids)
    assert all(a.get("scope") for a in page.all("th"))


def test_the_same_table_gives_the_same_page():
    rows = noise_only(**FEW)
    assert render_study(table(rows)) == render_study(table(rows))


@pytest.mark.slow
def test_a_large_study_stays_under_six_megabytes():
    rows = noise_only(models=("a", "b"), ks=(3, 6, 9), objectives=("nll", "kl"), draws=5)
    assert len(rows) == 480 * 2
    assert len(render_study(table(rows)).encode()) < 6e6


def test_the_sheet_of_cells_has_a_row_a_cell_and_names_what_failed():
    rows = noise_only()
    rows[2] = rows[2].model_copy(update={"error": "no memory"})
    text_table = cells.cell_table(rows)
    assert len(text_table.rows) == len(rows)
    assert all(len(row) == len(text_table.head) for row in text_table.rows)
    assert text_table.rows[2][6].text == "failed: no memory"


def test_every_sheet_has_a_cell_a_column():
    part = analyse(own_domain_only(noise=0.02))[0]
    data = part.data
    for text_table in (
        effect_table(part),
        gain_table(part),
        tables.variance_table("perplexity", part.variance["perplexity"]),
        tables.contiguity_table(data),
        tables.agreement_table(data),
        tables.pattern_table(part),
        tables.spread_table(data),
    ):
        assert text_table.rows
        assert all(len(row) == len(text_table.head) for row in text_table.rows)


def test_the_sheet_of_patterns_tells_what_the_sets_follow():
    """Planted masks follow the source, and never the search."""
    found = {row[0].text: row for row in tables.pattern_table(
        analyse(calibration_only())[0]).rows}  # fmt: skip
    assert found["calibration, k = 6"][1].value > 0.6
    assert found["calibration, k = 6"][3].value < 0.01
    assert found["search, k = 6"][3].value > 0.05


def test_the_sheet_of_spread_is_as_published():
    """σ² with ddof 0 over the searches, the mean of the draws."""
    values = {"one-shot": 3.0, "greedy": 3.2, "beam": 3.1, "genetic": 3.1}
    grid = Grid(lambda cell: math.log(values[cell.search]), sources=("prose",), draws=2)
    text_table = tables.spread_table(analyse(grid.rows())[0].data)
    assert text_table.rows[0][2].value == pytest.approx(0.02 / 4)
    assert text_table.rows[0][3].value == pytest.approx(0.2)


def test_the_sheet_of_spread_counts_searches_and_not_their_seeds():
    values = {"one-shot": 3.0, "greedy": 3.2}
    grid = Grid(
        lambda cell: math.log(values[cell.search]), sources=("prose",), searches=tuple(values)
    )
    rows = grid.rows()
    rows += [row.model_copy(update={"search_seed": 1}) for row in rows if row.search == "greedy"]
    text_table = tables.spread_table(analyse(rows)[0].data)
    assert text_table.rows[0][2].value == pytest.approx(0.01)


def test_regrets_of_two_objectives_stand_apart():
    part = analyse(noise_only(objectives=("nll", "kl"), **FEW))[0]
    points = quality_against_cost(part.data, "perplexity")
    text_table = cells.cost_table(points, part.data.rows, perplexity=True)
    assert text_table.head[4:6] == ("Mean regret, kl", "Mean regret, nll")
    assert all(len(row) == len(text_table.head) for row in text_table.rows)


SCRIPT = """
addEventListener("load", () => {
  const table = document.querySelector('table[data-name^="cells"]');
  const tools = table.closest(".scroll").previousElementSibling;
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const column = heads.findIndex((head) => head.textContent === "Loss");
  const number = { inf: Infinity };
  const one = (text) => number[text] ?? Number(text);
  const losses = () => [...body.rows].map((row) => one(row.cells[column].dataset.value));
  body.rows[4].cells[column].dataset.value = "inf";
  heads[column].querySelector("button").click();
  const up = losses();
  heads[column].querySelector("button").click();
  const down = losses();
  const box = tools.querySelector("input");
  box.value = "greedy code";
  box.dispatchEvent(new Event("input"));
  const left = [...body.rows].filter((row) => !row.hidden);
  let saved = "";
  URL.createObjectURL = (blob) => { saved = blob; return "#"; };
  HTMLAnchorElement.prototype.click = () => {};
  tools.querySelector("button").click();
  saved.text().then((text) => {
    const told = document.createElement("pre");
    told.id = "told";
    const said = tools.textContent;
    const infinite = [up.at(-1), down[0]].every((each) => each === Infinity);
    up.pop();
    down.shift();
    told.textContent = JSON.stringify({ infinite, up, down, left: left.length, said, text });
    document.body.append(told);
  });
});
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")
def test_a_browser_loads_the_page_without_a_complaint(tmp_path):
    rows = calibration_only(models=("a", "b")) + noise_only(kind="choices", draws=1)
    ran = browse(tmp_path, render_study(table(rows)), "--dump-dom")
    assert "CONSOLE" not in ran.stderr
    assert "Save as CSV</button>" in ran.stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")
def test_in_a_browser_tables_sort_filter_and_save(tmp_path, text):
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    text = text.replace("script-src ", f"script-src 'sha256-{digest}' ")
    text = text.replace("</body>", f"<script>{SCRIPT}</script></body>")
    ran = browse(tmp_path, text, "--dump-dom", "--virtual-time-budget=4000")
    told = Page(re.search(r'<pre id="told">(.*?)</pre>', ran.stdout, re.DOTALL).group(1)).text
    found = json.loads(told)
    assert found["infinite"]
    assert found["up"] == sorted(found["up"])
    assert found["down"] == sorted(found["down"], reverse=True)
    assert found["left"] == 3
    assert "3 of 48 rows" in found["said"]
    lines = found["text"].strip().split("\r\n")
    assert len(lines) == 4
    assert lines[0].startswith('"Calibration","Model","k"')
    # The value in full, and without its error, so that it reads as a number.
    column = next(csv.reader(lines[:1])).index("prose, perplexity")
    assert all(float(line[column]) > 20 for line in csv.reader(lines[1:]))
