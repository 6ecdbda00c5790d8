"""What generation settings say of single blocks follows the blocks to their new numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from depthprune.checkpoints.side_files import cut_settings
from depthprune.errors import CheckpointError
from depthprune.pruning.apply import apply
from tiny import save_tiny

KEPT = (0, 2, 3, 5)


def test_heads_of_removed_blocks_go_and_the_others_are_renumbered() -> None:
    heads = [[0, 7], [1, 0], [3, 2], [3, 4], [5, 1]]
    new = cut_settings({"alignment_heads": heads, "top_k": 5}, KEPT, 6)
    assert new == {"alignment_heads": [[0, 7], [2, 2], [2, 4], [3, 1]], "top_k": 5}


def test_an_early_exit_stays_after_the_same_kept_block() -> None:
    assert cut_settings({"assistant_early_exit": 4}, KEPT, 6) == {"assistant_early_exit": 3}


def test_a_field_of_which_nothing_is_left_goes_and_a_null_stays() -> None:
    assert cut_settings({"alignment_heads": [[1, 0]], "assistant_early_exit": 1}, (3,), 6) == {}
    nothing = {"alignment_heads": None, "assistant_early_exit": None}
    assert cut_settings(nothing, KEPT, 6) == nothing


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alignment_heads": [[6, 0]]}, "expected pairs of a block from 0 to 5 and a head"),
        ({"alignment_heads": [3]}, "expected pairs of a block"),
        ({"assistant_early_exit": 7}, "expected a number of blocks from 1 to 6"),
    ],
)
def test_blocks_that_there_are_not_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        cut_settings(settings, KEPT, 6)


def test_a_cut_checkpoint_has_them_renumbered_and_says_what_is_gone(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "a", tokenizer=False)
    file = source / "generation_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"alignment_heads": [[1, 0], [5, 1]]}))
    apply(source, (1, 4), tmp_path / "b")
    cut = json.loads((tmp_path / "b" / file.name).read_text())
    assert cut == settings | {"alignment_heads": [[3, 1]]}
    done = apply(source, (1, 5), tmp_path / "c")
    assert "nothing of alignment_heads is left" in done.warnings[0]


@pytest.mark.parametrize("text", ['{ "top_k":5}', '{ "assistant_early_exit":null}'])
def test_settings_that_name_no_block_are_copied_byte_for_byte(tmp_path: Path, text: str) -> None:
    source = save_tiny(tmp_path / "a", tokenizer=False)
    (source / "generation_config.json").write_text(text)
    apply(source, (1,), tmp_path / "b")
    assert (tmp_path / "b" / "generation_config.json").read_text() == text
