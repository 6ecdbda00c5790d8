import xml.etree.ElementTree as ET

import pytest

from depthprune.study.grid import read_grid
from depthprune.study.report.files import write_study
from depthprune.study.report.publish import write_page
from depthprune.study.table import Table, write
from study.planted import noise_only, render_study

FEW = {"sources": ("prose", "code"), "searches": ("one-shot", "greedy")}


@pytest.fixture(scope="module")
def table():
    return Table("b3:1", tuple(noise_only(models=("../../a/b", "x"), **FEW)))


@pytest.fixture(scope="module")
def folder(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    written = write_study(table, out, plan="k: [6]")
    assert sorted(written.files) == sorted(
        str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()
    )
    return out


def test_the_page_is_the_page(folder, table):
    assert (folder / "report.html").read_text() == render_study(table, plan="k: [6]")


def test_every_figure_of_every_part_is_a_file_inside_the_folder(folder):
    names = {path.name for path in (folder / "figures").iterdir()}
    assert {"effects-a-b.svg", "effects-x.svg", "transfer-x.svg", "transfer-x-2.svg"} <= names
    assert len(names) == 2 * 8
    for path in (folder / "figures").iterdir():
        assert ET.fromstring(path.read_text()).tag.endswith("svg")


def test_the_tables_are_there_for_a_paper(folder):
    text = (folder / "tables.md").read_text()
    assert "| Changing the | Moves by |" in text
    assert "Every cell" not in text
    assert text.count("\n|--") == (folder / "tables.tex").read_text().count(r"\begin{table}")


def test_a_table_of_several_parts_says_which_part_it_is_of(folder):
    agree = "How far removed sets agree"
    text, tex = ((folder / name).read_text() for name in ("tables.md", "tables.tex"))
    for part in ("../../a/b", "x"):
        assert text.count(f"\n{part}: {agree}\n") == tex.count(f"{{{part}: {agree}}}") == 1
    assert f"\n{agree}\n" not in text


def test_a_table_of_the_only_part_names_none(tmp_path):
    write_study(Table("b3:1", tuple(noise_only(**FEW))), tmp_path)
    assert "\nHow far removed sets agree\n" in (tmp_path / "tables.md").read_text()


def test_what_was_there_is_replaced(folder, table):
    (folder / "report.html").write_text("old")
    write_study(table, folder)
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    assert not list(folder.glob(".*"))


PLAN = """
models: [smol]
k: [6]
calibrations: {prose: stdlib-prose}
margin: {perplexity: 0.02}
"""


@pytest.mark.parametrize(
    ("margin", "told"),
    [
        ("0.02", "Stated in the plan before it ran: effects that differ by less than 0.02 in"),
        ("0.5", "not the one that they were run by, so nothing in it was stated beforehand"),
    ],
)
def test_a_margin_that_was_changed_since_was_not_stated_beforehand(tmp_path, margin, told):
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN, encoding="utf-8")
    write(tmp_path / "results.jsonl", read_grid(plan).fingerprint, noise_only(**FEW))
    plan.write_text(PLAN.replace("0.02", margin), encoding="utf-8")
    write_page(tmp_path)
    page = " ".join((tmp_path / "report.html").read_text(encoding="utf-8").split())
    assert told in page
    assert "less than 0.5" not in page
