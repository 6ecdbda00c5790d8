"""Windows are cut where the spec says, never across the held-out border, never overlapping."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthprune.calibration import CalibrationSpec, Document, Window
from depthprune.calibration.drawing import draw_windows, within_budget
from depthprune.calibration.streams import TokenStream, tokenize
from depthprune.errors import CalibrationError
from tiny import tiny_tokenizer

_BOS = -1


def _spec(**keys: Any) -> CalibrationSpec:
    return CalibrationSpec(source="text", target="a.txt", **keys)


def _stream(total: int) -> TokenStream:
    """One document whose tokens are their own positions."""
    return TokenStream(np.arange(total), np.asarray([0]), ("a.txt",), 0)


def _documents(*lengths: int, gap: int = 2) -> TokenStream:
    """Documents whose tokens are their positions in the whole stream."""
    starts = np.cumsum([0, *(length + gap for length in lengths[:-1])])
    names = tuple(f"doc{i}" for i in range(len(lengths)))
    return TokenStream(np.arange(int(starts[-1]) + lengths[-1]), starts, names, gap)


def _starts(windows: tuple[Window, ...]) -> tuple[int, ...]:
    return tuple(window.start for window in windows)


def _reference(text: str) -> list[int]:
    ids: list[int] = tiny_tokenizer().encode(text, add_special_tokens=False)
    return ids


def test_tokens_are_those_of_the_text_taken_whole() -> None:
    text = "The river rises in the hills.\n\n Behind the town? " * 20
    stream = tokenize([Document("a", text)], tiny_tokenizer())
    assert stream.tokens.tolist() == _reference(text)


def test_documents_are_joined_by_blank_lines() -> None:
    texts = ["The bridge.", "The mill, once.", "The old road."]
    stream = tokenize([Document(t[-5:], t) for t in texts], tiny_tokenizer())
    assert tiny_tokenizer().decode(stream.tokens) == "\n\n".join(texts)
    assert [stream.document(i).tolist() for i in range(3)] == [_reference(t) for t in texts]


def test_every_position_has_a_document() -> None:
    stream = _documents(3, 4, gap=2)
    names = [stream.document_at(i) for i in range(len(stream.tokens))]
    assert names == ["doc0"] * 5 + ["doc1"] * 4


@settings(deadline=None)
@given(
    total=st.integers(2, 300),
    windows=st.integers(1, 12),
    length=st.integers(2, 40),
    seed=st.integers(0, 2**40),
)
def test_random_windows_do_not_overlap_and_stay_outside_the_last_tenth(
    total: int, windows: int, length: int, seed: int
) -> None:
    spec = _spec(windows=windows, length=length, seed=seed)
    border = total - total // 10
    if windows * length > border:
        with pytest.raises(CalibrationError):
            draw_windows(spec, _stream(total), "draw")
        return
    drawn = draw_windows(spec, _stream(total), "draw")
    starts = _starts(drawn)
    assert len(drawn) == windows
    assert all(second - first >= length for first, second in pairwise(starts))
    assert 0 <= starts[0] <= starts[-1] + length <= border
    for window in drawn:
        assert window.tokens.tolist() == list(range(window.start, window.start + length))


def test_random_windows_are_uniform_over_all_placements() -> None:
    total, windows, length = 12, 2, 3
    room = total - total // 10
    placements = {
        pair
        for pair in product(range(room - length + 1), repeat=windows)
        if pair[1] - pair[0] >= length
    }
    draws = 100 * len(placements)
    counts = Counter(
        _starts(
            draw_windows(_spec(windows=windows, length=length, seed=seed), _stream(total), "draw")
        )
        for seed in range(draws)
    )
    assert set(counts) == placements
    chi_square = sum((counts[p] - 100) ** 2 / 100 for p in placements)
    assert chi_square < 45  # 20 degrees of freedom: exceeded by chance once in 900


def test_windows_that_fill_the_text_have_one_placement() -> None:
    drawn = draw_windows(_spec(windows=3, length=3, seed=9), _stream(10), "draw")
    assert _starts(drawn) == (0, 3, 6)


def test_the_same_seed_draws_the_same_windows() -> None:
    spec = _spec(windows=5, length=8, seed=3)
    once, again = (draw_windows(spec, _stream(500), "draw") for _ in range(2))
    assert _starts(once) == _starts(again)


def test_another_seed_draws_other_windows() -> None:
    draws = {
        _starts(draw_windows(_spec(windows=5, length=8, seed=s), _stream(500), "draw"))
        for s in range(20)
    }
    assert len(draws) == 20


def test_first_windows_are_consecutive_from_the_start() -> None:
    drawn = draw_windows(_spec(windows=4, length=8, order="first"), _stream(500), "draw")
    assert _starts(drawn) == (0, 8, 16, 24)


def test_all_windows_of_a_draw_stop_before_the_last_tenth() -> None:
    drawn = draw_windows(_spec(windows="all", length=9), _stream(105), "draw")
    assert _starts(drawn) == tuple(range(0, 90, 9))


def test_all_windows_of_the_whole_text_are_the_usual_perplexity_protocol() -> None:
    stream = _stream(105)
    drawn = draw_windows(_spec(windows="all", length=10), stream, "whole")
    assert np.concatenate([w.tokens for w in drawn]).tolist() == list(range(100))


def test_first_windows_of_the_whole_text_may_reach_its_end() -> None:
    spec = _spec(windows=10, length=10, order="first")
    assert _starts(draw_windows(spec, _stream(100), "whole"))[-1] == 90
    with pytest.raises(CalibrationError, match="outside the last tenth"):
        draw_windows(spec, _stream(100), "draw")


def test_random_windows_of_the_whole_text_are_those_of_the_draw() -> None:
    spec = _spec(windows=5, length=8, seed=4)
    draws = [draw_windows(spec, _stream(500), split) for split in ("draw", "whole")]
    assert _starts(draws[0]) == _starts(draws[1])


@pytest.mark.parametrize("order", ["random", "first"])
def test_held_out_windows_lie_in_the_last_tenth(order: str) -> None:
    for seed in range(30):
        spec = _spec(windows=3, length=8, order=order, seed=seed)
        starts = _starts(draw_windows(spec, _stream(500), "held-out"))
        assert len(starts) == 3
        assert 450 <= starts[0] <= starts[-1] <= 492


def test_held_out_windows_are_at_most_those_that_fit() -> None:
    drawn = draw_windows(_spec(windows=9, length=20), _stream(500), "held-out")
    assert len(drawn) == 2


def test_a_held_out_window_is_shortened_to_the_last_tenth() -> None:
    drawn = draw_windows(_spec(windows=2, length=64), _stream(200), "held-out")
    assert [w.tokens.tolist() for w in drawn] == [list(range(180, 200))]


def test_a_text_with_no_two_tokens_held_out_is_refused() -> None:
    spec = _spec(windows=1, length=4)
    draw_windows(spec, _stream(20), "held-out")
    with pytest.raises(CalibrationError, match="at least 20 tokens"):
        draw_windows(spec, _stream(19), "held-out")


def test_too_short_a_text_is_refused_with_what_it_has() -> None:
    with pytest.raises(CalibrationError) as caught:
        draw_windows(_spec(windows=16, length=512), _stream(8_200), "draw")
    assert str(caught.value) == (
        "text:a.txt: windows=16,length=512 needs 8,192 tokens and the text has 8,200 (7,380 "
        "outside the last tenth, which is held out); lower windows= or length=, or give more text"
    )


def test_all_windows_of_a_text_shorter_than_one_are_refused() -> None:
    with pytest.raises(CalibrationError, match="needs 512 tokens and the text has 100"):
        draw_windows(_spec(windows="all", length=512), _stream(100), "whole")


def test_only_the_first_token_of_a_window_is_not_scored() -> None:
    drawn = draw_windows(_spec(windows=2, length=4), _stream(100), "draw")
    assert all(w.scored.tolist() == [False, True, True, True] for w in drawn)


def test_a_window_may_begin_with_bos_within_its_length() -> None:
    spec = _spec(windows=2, length=4, order="first", bos=True)
    drawn = draw_windows(spec, _stream(100), "draw", (_BOS,))
    assert [w.tokens.tolist() for w in drawn] == [[_BOS, 0, 1, 2], [_BOS, 3, 4, 5]]
    assert all(w.scored.tolist() == [False, True, True, True] for w in drawn)
    assert _starts(drawn) == (0, 3)


def test_a_window_of_bos_and_one_token_is_long_enough() -> None:
    spec = _spec(windows=2, length=2, order="first", bos=True)
    drawn = draw_windows(spec, _stream(100), "draw", (_BOS,))
    assert [w.tokens.tolist() for w in drawn] == [[_BOS, 0], [_BOS, 1]]


def test_packed_windows_run_across_documents_and_name_where_they_begin() -> None:
    spec = _spec(windows=3, length=6, order="first")
    drawn = draw_windows(spec, _documents(4, 4, 4, 30), "draw")
    assert [w.document for w in drawn] == ["doc0", "doc1", "doc2"]


def test_unpacked_windows_each_lie_in_a_document_of_their_own() -> None:
    stream = _documents(*[5, 30, 12, 9, 40] * 4)
    for seed in range(30):
        drawn = draw_windows(
            _spec(windows=6, length=10, pack=False, seed=seed), stream, "draw", (0,)
        )
        assert len({w.document for w in drawn}) == 6
        for window in drawn:
            index = stream.names.index(window.document)
            inside = stream.document(index)[window.start : window.start + 9]
            assert window.tokens[1:].tolist() == inside.tolist()
            assert index < 18


def test_unpacked_windows_reach_every_place_of_a_document() -> None:
    stream = _documents(10, 10)
    starts = {
        _starts(draw_windows(_spec(windows=1, length=8, pack=False, seed=s), stream, "draw"))
        for s in range(50)
    }
    assert starts == {(0,), (1,), (2,)}


def test_unpacked_first_windows_are_the_beginnings_of_the_first_documents() -> None:
    stream = _documents(5, 30, 12, 9, 40, 10)
    spec = _spec(windows=2, length=10, order="first", pack=False)
    drawn = draw_windows(spec, stream, "draw")
    assert [(w.document, w.start) for w in drawn] == [("doc1", 0), ("doc2", 0)]


def test_unpacked_windows_hold_out_the_last_tenth_of_the_documents() -> None:
    spec = _spec(windows="all", length=10, pack=False)
    stream = _documents(*[12] * 30)
    names = {
        split: [w.document for w in draw_windows(spec, stream, split)]
        for split in ("draw", "held-out", "whole")
    }
    assert names["held-out"] == ["doc27", "doc28", "doc29"]
    assert [*names["draw"], *names["held-out"]] == names["whole"]


def test_too_few_long_documents_are_refused_with_their_number() -> None:
    spec = _spec(windows=3, length=10, pack=False)
    with pytest.raises(CalibrationError, match="2 of its 3 documents outside the last tenth, "):
        draw_windows(spec, _documents(5, 12, 12, 12), "draw")


@settings(deadline=None)
@given(budget=st.integers(8, 400), length=st.integers(2, 8), seed=st.integers(0, 9))
def test_a_budget_takes_as_many_whole_windows_as_fit(budget: int, length: int, seed: int) -> None:
    spec = _spec(tokens=budget, length=length, seed=seed)
    drawn = draw_windows(spec, _stream(500), "draw")
    assert len(drawn) == budget // length
    same = _spec(windows=budget // length, length=length, seed=seed)
    assert _starts(drawn) == _starts(draw_windows(same, _stream(500), "draw"))


def test_a_text_below_its_budget_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"tokens=600,length=8 needs 600 tokens"):
        draw_windows(_spec(tokens=600, length=8), _stream(500), "draw")


@settings(deadline=None)
@given(
    budget=st.integers(20, 300), seed=st.integers(0, 9), order=st.sampled_from(["random", "first"])
)
def test_a_budget_of_single_documents_is_not_exceeded(budget: int, seed: int, order: str) -> None:
    stream = _documents(*[5, 30, 12, 9, 14] * 8)
    keys = {"pack": False, "min_length": 6, "length": 15, "seed": seed, "order": order}
    drawn = draw_windows(_spec(tokens=budget, **keys), stream, "draw")
    sizes = [len(window.tokens) for window in drawn]
    assert budget - 15 < sum(sizes) <= budget
    assert set(sizes) <= {15, 12, 9, 14}


def test_a_budget_is_met_where_one_more_window_might_not_fit() -> None:
    spec = _spec(tokens=30)
    assert within_budget(spec, [15, 5]) == 2
    assert within_budget(spec, [10, 5, 5]) is None
    assert within_budget(spec, [10, 5, 5], at_most=True) == 3


def test_documents_from_the_least_length_on_make_windows_of_their_own_length() -> None:
    stream = _documents(5, 30, 12, 9, 40, 40, 40, 40, 40, 40)
    spec = _spec(windows="all", length=20, pack=False, min_length=9)
    drawn = draw_windows(spec, stream, "draw")
    assert [(w.document, len(w.tokens)) for w in drawn][:3] == [
        ("doc1", 20),
        ("doc2", 12),
        ("doc3", 9),
    ]


def test_bos_counts_towards_the_least_length() -> None:
    stream = _documents(8, 30, 7, 9, *[40] * 6)
    spec = _spec(windows="all", length=20, pack=False, min_length=9, bos=True)
    drawn = draw_windows(spec, stream, "draw", (_BOS,))
    assert [(w.document, len(w.tokens)) for w in drawn][:3] == [
        ("doc0", 9),
        ("doc1", 20),
        ("doc3", 10),
    ]


def test_packed_windows_leave_short_documents_out() -> None:
    stream = _documents(*[3, 20] * 10)
    drawn = draw_windows(_spec(windows="all", length=10, min_length=9), stream, "draw")
    long = np.concatenate([stream.document(i) for i in range(1, 20, 2)])
    inside = np.concatenate([w.tokens for w in drawn])
    separators = np.setdiff1d(inside, long)
    assert len(separators) <= 2 * 10
    assert {w.document for w in drawn} <= {f"doc{i}" for i in range(1, 20, 2)}
    exact = draw_windows(_spec(windows="all", length=10, min_length=20), stream, "draw")
    assert _starts(exact) == _starts(drawn)
    with pytest.raises(CalibrationError, match="none of its 20 documents has min_length=50"):
        draw_windows(_spec(windows=1, length=10, min_length=50), stream, "draw")


def test_a_sample_of_documents_is_all_that_is_read() -> None:
    stream = _documents(*[20] * 50)
    seen = set()
    for seed in range(3):
        spec = _spec(windows="all", length=8, documents=5, seed=seed)
        names = {window.document for window in draw_windows(spec, stream, "draw")}
        assert len(names) == 5
        assert names.isdisjoint({f"doc{i}" for i in range(45, 50)})
        seen.add(frozenset(names))
    assert len(seen) == 3
    held = draw_windows(_spec(windows="all", length=8, documents=5), stream, "held-out")
    assert {window.document for window in held} == {f"doc{i}" for i in range(45, 50)}


def test_a_sample_of_documents_is_joined_as_the_whole_is() -> None:
    texts = [Document(f"d{i}", f"The bridge {i}.") for i in range(20)]
    stream = tokenize(texts, tiny_tokenizer())
    joined = tiny_tokenizer().decode(stream.only([4, 11, 2]).tokens)
    assert joined == "The bridge 4.\n\nThe bridge 11.\n\nThe bridge 2."
    assert stream.only([7]).tokens.tolist() == stream.document(7).tolist()


def test_more_documents_than_may_be_read_are_refused() -> None:
    with pytest.raises(CalibrationError, match="documents=19, and it has 18 outside the last"):
        draw_windows(
            _spec(windows="all", documents=19, length=4), _documents(*[9] * 20), "draw", None
        )


def test_the_last_token_alone_may_count() -> None:
    (window, *_) = draw_windows(_spec(windows=2, length=6, mask="last"), _stream(99), "draw")
    assert window.scored.tolist() == [False] * 5 + [True]
