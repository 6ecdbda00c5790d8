"""What was chosen by timing stands: two runs on one machine choose alike."""

from __future__ import annotations

from pathlib import Path

import pytest

import depthprune as dp
from depthprune.models import attention
from depthprune.models.attention import products_are_faster
from depthprune.models.timed_choices import remembered
from depthprune.outputs import cache_folder


def _never() -> bool:
    pytest.fail("it was asked again")


@pytest.mark.parametrize("answer", [True, False])
def test_the_first_answer_stands(answer: bool) -> None:
    assert remembered("which", lambda: answer) is answer
    assert remembered("which", _never) is answer
    assert remembered("another", lambda: not answer) is not answer


def test_of_two_that_answer_at_once_the_first_is_believed() -> None:
    def late() -> bool:
        assert remembered("which", lambda: True)
        return False

    assert remembered("which", late)


@pytest.mark.parametrize("damage", [b"", b"maybe\n", b"\xff\xfe", b"yes\nno\n"])
def test_what_is_no_answer_is_answered_anew(damage: bytes) -> None:
    remembered("which", lambda: True)
    (place,) = (cache_folder() / "timed").iterdir()
    place.write_bytes(damage)
    assert not remembered("which", lambda: False)
    assert not remembered("which", _never)
    assert len(list(place.parent.iterdir())) == 1


def test_where_nothing_can_be_kept_each_process_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert remembered("which", lambda: True)
    assert not remembered("which", lambda: False)


def test_an_evaluator_attends_as_the_one_before_it(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    calibration = dp.calibrate("stdlib-prose,windows=2,length=16", model)
    losses = []
    for faster in (True, False):
        monkeypatch.setattr(attention, "_products_take_less", lambda *_, f=faster: f)
        products_are_faster.cache_clear()  # as in another process
        evaluator = dp.Evaluator(model, calibration)
        assert evaluator._runner.products
        losses.append([score.loss for score in evaluator.score([(), (1,)])])
    products_are_faster.cache_clear()
    assert losses[0] == losses[1]
