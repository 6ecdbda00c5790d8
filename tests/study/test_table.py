import json

import pytest
from pydantic import ValidationError

from depthprune.errors import UsageError
from depthprune.study.table import DenseRow, Evaluation, Row, append, read, resume, write
from depthprune.untrusted import LARGEST

from .planted import Grid, calibration_only


@pytest.fixture
def rows():
    return calibration_only(draws=2)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.jsonl"


def test_a_table_reads_back_as_it_was_written(path, rows):
    write(path, "b3:1", rows)
    table = read(path, "b3:1")
    assert table.rows == tuple(rows)
    assert table.plan == "b3:1"


def test_rows_are_appended_one_a_line(path, rows):
    resume(path, "b3:1")
    for row in rows[:3]:
        append(path, row)
    assert read(path).rows == tuple(rows[:3])
    assert len(path.read_text().splitlines()) == 4


def test_a_line_cut_short_is_dropped_and_written_over(path, rows):
    write(path, "b3:1", rows[:3])
    path.write_bytes(path.read_bytes()[:-40])
    assert resume(path, "b3:1").rows == tuple(rows[:2])
    append(path, rows[2])
    assert read(path).rows == tuple(rows[:3])


def test_a_line_cut_short_within_a_character_is_dropped_too(path, rows):
    write(path, "b3:1", [rows[0], rows[1].model_copy(update={"error": "größer"})])
    content = path.read_bytes()
    path.write_bytes(content[: content.index("ö".encode()) + 1])
    assert read(path).rows == resume(path, "b3:1").rows == (rows[0],)


def test_an_empty_file_is_begun_anew(path):
    path.write_text("")
    assert resume(path, "b3:1").rows == ()


def test_infinite_values_survive(path, rows):
    evaluation = rows[0].evaluations[0].model_copy(update={"value": float("inf")})
    row = rows[0].model_copy(update={"loss": float("inf"), "evaluations": (evaluation,)})
    write(path, "b3:1", [row])
    assert read(path).rows == (row,)
    json.loads(path.read_text().splitlines()[1], parse_constant=pytest.fail)


def test_cells_that_failed_are_not_done(path, rows):
    failed = rows[0].model_copy(update={"error": "the source is empty", "removed": ()})
    write(path, "b3:1", [failed, rows[1]])
    table = read(path)
    assert table.rows == (failed, rows[1])
    assert table.done == (rows[1],)


def test_another_plan_is_refused(path):
    write(path, "b3:1")
    with pytest.raises(UsageError, match="its plan is b3:1, expected b3:2"):
        resume(path, "b3:2")


def test_another_version_is_refused(path):
    path.write_text('{"kind": "depthprune-study", "schema": 2, "plan": "b3:1"}\n')
    with pytest.raises(UsageError, match="expected schema 1, found 2"):
        read(path)


@pytest.mark.parametrize("text", ["", "{}\n", "[1]\n", "a,b\n", '{"kind": "other"}\n'])
def test_what_is_no_table_is_refused(path, text):
    path.write_text(text)
    with pytest.raises(UsageError, match="expected a study's results table"):
        read(path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\n"])
def test_a_file_that_cannot_be_read_is_refused(path, content):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot be read|not UTF-8"):
        read(path)


def test_a_row_that_does_not_fit_is_named_by_its_line(path, rows):
    write(path, "b3:1", rows[:1])
    for line in ("{", json.dumps({**rows[1].model_dump(mode="json"), "k": "six"})):
        path.write_text(path.read_text().splitlines()[0] + f"\n{line}\n")
        with pytest.raises(UsageError, match="line 2: "):
            read(path)


def test_a_cell_given_twice_with_two_results_is_refused(path, rows):
    other = rows[0].model_copy(update={"loss": 9.0})
    write(path, "b3:1", [rows[0], other])
    with pytest.raises(UsageError, match="line 3: this cell was given in line 2 with another"):
        read(path)
    with pytest.raises(UsageError, match="remove one of the two lines"):
        resume(path, "b3:1")


def test_cells_that_two_processes_wrote_alike_are_kept_once(path, rows):
    slower = rows[0].cost.model_copy(update={"seconds": 99.0})
    again = rows[0].model_copy(update={"cost": slower})
    write(path, "b3:1", [rows[0], rows[1], again, rows[1], rows[2]])
    assert read(path).rows == tuple(rows[:3])
    assert len(path.read_text().splitlines()) == 6
    assert resume(path, "b3:1").rows == tuple(rows[:3])
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"removed": (1, 2)}, "k = 6"),
        ({"removed": (6, 5, 4, 3, 2, 1)}, "sorted"),
        ({"removed": (1, 2, 3, 4, 5, 30)}, "within 0–29"),
        ({"removed": (0, 2, 3, 4, 5, 6)}, "protected"),
        ({"alone": (0.1,)}, "one value a removed block"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(rows, change, message):
    with pytest.raises(ValidationError, match=message):
        Row.model_validate({**rows[0].model_dump(), **change})


def test_an_evaluation_is_given_once_and_is_possible(rows):
    with pytest.raises(ValidationError, match="once"):
        Grid(lambda cell: 3.5, texts=("a", "a")).rows()
    with pytest.raises(ValidationError, match="fraction"):
        Evaluation(name="arc", kind="accuracy", value=43.5, n=200)
    with pytest.raises(ValidationError, match="above 0"):
        Evaluation(name="wiki", kind="perplexity", value=0.0, n=8)


def test_the_whole_model_has_a_line_of_its_own(path, rows):
    dense = DenseRow(model="smol", blocks=30, evaluations=rows[0].evaluations)
    write(path, "b3:1", [dense, *rows[:2]])
    table = resume(path, "b3:1")
    assert (table.dense, table.rows) == ((dense,), tuple(rows[:2]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": "a0"}, "the mean of items is 0.5, and the value says 0.75"),
        ({"items": "e0e0"}, "expected the bits of 4, got 16 bits"),
        ({"items": (1.0, 1.0, 1.0)}, "expected 4 values, got 3"),
        ({"items": "e0", "weights": (1.0,)}, "weights: expected 4, got 1"),
    ],
)
def test_items_are_those_that_the_value_is_the_mean_of(changes, message):
    facts = {"name": "quiz", "kind": "accuracy", "value": 0.75, "n": 4, "items": "e0"}
    assert Evaluation(**facts).items == "e0"
    with pytest.raises(ValidationError, match=message):
        Evaluation(**{**facts, **changes})


def test_a_table_of_any_length_reads_back(path, rows):
    """A long grid's is longer than any file that others wrote may be."""
    long = rows[0].model_copy(update={"error": "x" * (LARGEST + 1)})
    write(path, "b3:1", [long, rows[1]])
    assert resume(path, "b3:1").rows == (long, rows[1])
