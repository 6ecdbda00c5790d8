"""Every verified architecture is cut, reloaded and compared; no derived list is forgotten."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from census import LIMIT, MULTIMODAL, OLDER, TYPES, examine, run
from census_page import DONE, NEEDED, PAGE, page, read_page, supported
from depthprune.checkpoints.architectures.schema import Architecture, Pattern
from depthprune.checkpoints.architectures.table import (
    architectures,
    find,
    require_prunable,
)
from depthprune.checkpoints.config.cut import cut_config, row_of
from depthprune.checkpoints.config.fields import FIELDS, LISTED_COUNTS
from depthprune.checkpoints.config.sections import text_section
from depthprune.errors import ModelError
from tiny import tiny_config
from versions import OLD

BLOCKS = 6
SETS = [(2,), (0,), (5,), (2, 3), (1, 2, 4)]
VERIFIED = [row for row in architectures() if row.status == "verified"]

NEWEST = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 23)
"""Whether this transformers must know every row."""

_NOT_BEFORE = (
    *("doge", "gemma3n_text", "glm4v_moe_text", "granitemoehybrid", "phimoe"),
    *OLDER,
)
"""Older versions of these cannot be built at tiny sizes, or are not exact with a cache uncut."""

WRITTEN = PAGE.read_text(encoding="utf-8")
FOUND = read_page(WRITTEN)
"""What the last whole census found, step by step, of every verified type."""

THIS_VERSION = f"transformers {transformers.__version__} maps" in WRITTEN

README = PAGE.parent.parent / "README.md"

SAMPLE = "llama gpt2 qwen2_moe bart bert gemma3 mllama qwen2_5_vl recurrent_gemma".split()  # noqa: SIM905
"""One type of each kind that is quick to go over."""

HARDER = """
gemma3n_text gemma4_text glm_moe_dsa hy_v3 kimi_linear llama4 nemotron_h qwen3_5
""".split()  # noqa: SIM905
"""What is left of the kinds; the slow tests go over these and every fourth type, and `make census`
over all."""

SHARE = [
    row
    for at, row in enumerate(
        row for row in architectures() if row.model_type in {*TYPES, *MULTIMODAL}
    )
    if row.model_type in HARDER or (at % 4 == 0 and row.model_type not in SAMPLE)
]

pytestmark = pytest.mark.filterwarnings("ignore")


def _params(rows: list[Any]) -> list[Any]:
    return [pytest.param(row.model_type, marks=_marks(row.model_type)) for row in rows]


def _marks(model_type: str) -> list[pytest.MarkDecorator]:
    unknown = model_type not in CONFIG_MAPPING or (model_type in _NOT_BEFORE and not NEWEST)
    return [pytest.mark.skipif(unknown, reason="this transformers does not know it")]


def _allowed(full: dict[str, Any]) -> list[tuple[int, ...]]:
    """The sets that surgery does not refuse where every list is written out."""
    sets = []
    for removed in SETS:
        with contextlib.suppress(ModelError):
            cut_config(full, removed)
            sets.append(removed)
    return sets


@pytest.mark.parametrize("model_type", _params([find(name) for name in SAMPLE]))
def test_a_cut_checkpoint_computes_what_skipping_in_place_does(
    model_type: str, tmp_path: Path
) -> None:
    if OLD and model_type == "gemma3":
        pytest.skip("transformers 4 names its blocks otherwise in files, and it cannot be streamed")
    finding = examine(model_type, tmp_path)
    assert finding.verdict == "exact", finding.line()
    if THIS_VERSION:
        assert finding.steps == FOUND[model_type]


@pytest.mark.slow
@pytest.mark.parametrize(
    "model_type",
    # A language model that is only ever part of another is compared inside that.
    _params(SHARE),
)
def test_the_census_leaves_no_type_wrong_or_unexplained(model_type: str) -> None:
    (finding,) = run((model_type,))
    row = find(model_type)
    assert row is not None
    assert finding.verdict == ("exact" if row.status == "verified" else row.status), finding.line()
    if row.status == "verified" and THIS_VERSION:
        assert finding.steps == FOUND[model_type]


@pytest.mark.skipif(not NEWEST, reason="needs a newer transformers")
def test_every_type_has_a_row() -> None:
    assert [name for name in (*TYPES, *MULTIMODAL) if find(name) is None] == []


@pytest.mark.skipif(not THIS_VERSION, reason="the census was last written with another version")
def test_the_page_is_what_the_census_writes() -> None:
    assert page(FOUND, TYPES, MULTIMODAL, LIMIT) == WRITTEN


def test_the_page_names_each_step_that_a_causal_type_does_not_take() -> None:
    rows = {name: find(name) for name in FOUND}
    for name in FOUND.keys() & set(TYPES):
        row = rows[name]
        assert row is not None
        whole = all(FOUND[name][step] == DONE for step in NEEDED)
        assert whole is not row.why.endswith("not searched"), name


@pytest.mark.skipif(not THIS_VERSION, reason="the census was last written with another version")
def test_the_readme_counts_what_the_census_found() -> None:
    causal, others = (supported(FOUND, types) for types in (TYPES, MULTIMODAL))
    text = " ".join(README.read_text(encoding="utf-8").split())
    assert f"{causal} of transformers' {len(TYPES)} causal types" in text
    assert f"{others} of {len(MULTIMODAL)} that also read pictures or sound" in text


@pytest.mark.skipif(not NEWEST, reason="needs a newer transformers")
def test_at_least_160_types_are_verified() -> None:
    assert len([row for row in VERIFIED if row.model_type in TYPES]) >= 160


def test_a_refused_type_is_refused_with_its_reason() -> None:
    for row in architectures():
        if row.status != "verified":
            with pytest.raises(ModelError, match=f"{row.model_type}: cannot be depth-pruned"):
                require_prunable(row.model_type)


def test_a_type_without_a_row_is_let_through_only_to_be_proved() -> None:
    assert require_prunable("no_such_type") is None
    with pytest.raises(ModelError, match="no_such_type: not on the list of verified"):
        require_prunable("no_such_type", proved=True)


@pytest.mark.parametrize("model_type", _params(VERIFIED))
def test_lists_that_the_file_leaves_out_are_cut_all_the_same(
    model_type: str, tmp_path: Path
) -> None:
    """Checkpoints often rely on their config class to derive a list from the blocks' numbers."""
    full = json.loads(tiny_config(model_type).to_json_string(use_diff=False))
    lists = [
        name
        for name, value in text_section(full).items()
        if FIELDS.get(name) in ("slice", "slice-lent", "remap")
        and name not in LISTED_COUNTS
        and _derived(full, name, value, tmp_path)
    ]
    row = row_of(full)
    assert row is not None
    periods = [str(p.period) for p in row.patterns if isinstance(p, Pattern)]
    for absent in (lists, [*lists, *periods]):
        _check_derived_lists(row, full, absent, lists, tmp_path)


def _check_derived_lists(
    row: Architecture, full: dict[str, Any], absent: list[str], lists: list[str], folder: Path
) -> None:
    before = _load(_without(full, *absent), folder)
    written = {name: getattr(before, name) for name in lists}
    for removed in _allowed(_with(full, written)):
        try:
            cut = _load(cut_config(_without(full, *absent), removed).config, folder)
        except ModelError:
            assert set(lists) & {need.field for need in row.needs}
            continue
        for name in lists:
            kept = [i for i in range(BLOCKS) if i not in removed]
            derived = getattr(before, name)
            if FIELDS[name] == "remap":
                expected = [kept.index(block) for block in derived if block in kept]
            else:
                expected = [derived[block] for block in kept]
            assert getattr(cut, name) == expected, (name, removed)


def _load(config: dict[str, Any], folder: Path) -> Any:
    (folder / "config.json").write_text(json.dumps(config))
    loaded = AutoConfig.from_pretrained(folder)
    return loaded if text_section(config) is config else loaded.get_text_config()


def _derived(config: dict[str, Any], name: str, value: Any, folder: Path) -> bool:
    """Whether the value is a list that the config class fills in by itself."""
    if not isinstance(value, list):
        return False
    try:
        found = getattr(_load(_without(config, name), folder), name, None)
    except Exception:
        return False
    return isinstance(found, list) and len(found) > 0


def _without(config: dict[str, Any], *names: str) -> dict[str, Any]:
    new = copy.deepcopy(config)
    section = text_section(new)
    for name in names:
        section.pop(name, None)
    return new


def _with(config: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    new = copy.deepcopy(config)
    text_section(new).update(values)
    return new


@pytest.mark.parametrize("model_type", _params(VERIFIED))
def test_counts_that_the_file_leaves_out_are_cut_all_the_same(
    model_type: str, tmp_path: Path
) -> None:
    full = json.loads(tiny_config(model_type).to_json_string(use_diff=False))
    counts = [
        name
        for name in text_section(full)
        if FIELDS.get(name) in ("recount", "recount-shared", "last", "sparse-step")
    ]
    terse = _without(full, *counts)
    try:
        before = _load(terse, tmp_path)
    except Exception:
        pytest.skip("its own defaults do not fit so few blocks")
    spelled = _with(terse, {name: getattr(before, name) for name in counts})
    for removed in _allowed(spelled):
        cut = _load(cut_config(terse, removed).config, tmp_path)
        expected = _load(cut_config(spelled, removed).config, tmp_path)
        for name in counts:
            assert getattr(cut, name) == getattr(expected, name), (name, removed)


_SINCE_5_24 = """
apertus1p5 apertus1p5_text dory exaone hy_v4_vl hy_v4_vl_text inkling2_loop inkling2_loop_text
lara_mini omniasr sarvam_mla sarvam_moe
""".split()  # noqa: SIM905
"""Types that the version which the others are of does not know yet."""


@pytest.mark.skipif(not NEWEST, reason="needs a newer transformers")
def test_every_row_is_of_a_type_that_transformers_knows() -> None:
    unknown = {row.model_type for row in architectures() if row.model_type not in CONFIG_MAPPING}
    assert unknown <= {*_SINCE_5_24, "Glm4vMoe_text"}


@pytest.mark.skipif(not NEWEST, reason="needs a newer transformers")
def test_every_row_of_a_whole_model_names_the_class_that_makes_it() -> None:
    wrong = []
    for row in VERIFIED:
        if row.model_type not in (*TYPES, *MULTIMODAL):
            continue
        made = getattr(transformers, row.loader)._model_mapping
        if CONFIG_MAPPING[row.model_type] not in made:
            wrong.append((row.model_type, row.loader))
    assert wrong == []


def test_every_refused_row_says_why() -> None:
    assert all(row.why for row in architectures() if row.status == "refused")


def test_the_language_model_of_every_whole_model_has_a_row() -> None:
    assert [row.tower for row in architectures() if row.tower and find(row.tower) is None] == []


def test_a_type_has_one_row() -> None:
    from depthprune.checkpoints.architectures.multimodal_rows import MULTIMODAL_ROWS
    from depthprune.checkpoints.architectures.text_rows import ROWS

    names = [row.model_type for row in (*ROWS, *MULTIMODAL_ROWS)]
    assert len(names) == len(set(names))


def test_the_listing_puts_verified_types_first_with_their_rule() -> None:
    rows = architectures()
    assert rows[0].status == "verified"
    assert rows[-1].status == "refused"
    gpt2, moe = find("gpt2"), find("qwen2_moe")
    assert gpt2 is not None
    assert gpt2.rule == "count in n_layer"
    assert moe is not None
    assert "layer_types needed with use_sliding_window" in moe.rule


def test_a_type_that_nobody_listed_has_no_row() -> None:
    assert find("no_such_type") is None
