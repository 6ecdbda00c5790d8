"""What recovery gave back is told on the page, on the card and in the terminal alike."""

from __future__ import annotations

from rich.console import Console

from depthprune.report import summary
from depthprune.report.card import render_card
from depthprune.report.page import render_page
from depthprune.report.terminal import prune_summary

from .examples import full, recovered
from .test_page import Page


def test_each_text_has_its_three_perplexities_and_the_paired_change() -> None:
    first, second, third = summary.recovery_lines(recovered())
    assert first.name == "perplexity, stdlib-prose"
    assert (first.pruned, first.recovered) == ("46.9 ± 1.9", "37.5 ± 1.5")
    assert first.change == "× 0.8000 ± 0.0090"
    assert second.change.startswith("× 1.1")
    assert third.name == "perplexity, plays.txt"


def test_losses_stand_where_there_is_no_perplexity() -> None:
    manifest = recovered()
    plain = [
        record.model_copy(
            update={
                name: getattr(record, name).model_copy(update={"perplexity": None})
                for name in ("dense", "pruned", "recovered")
            }
        )
        for record in manifest.held_out or []
    ]
    line = summary.recovery_lines(recovered(held_out=plain, objective="kl"))[0]
    assert (line.name, line.recovered) == ("kl loss, stdlib-prose", "3.625 ± 0.040")
    assert line.change == "\N{MINUS SIGN}0.223 ± 0.011"


def test_the_headline_is_of_the_model_that_was_written() -> None:
    assert "24.7 → 37.5" in summary.headline(recovered())
    assert "24.7 → 46.9" in summary.headline(full())


def test_a_manifest_without_recovery_tells_nothing_of_it() -> None:
    assert summary.recovery_lines(full()) == []
    assert summary.recovery_words(full()) == ""


def test_page_card_and_terminal_tell_what_was_folded_left_and_harmed() -> None:
    page = Page(render_page(recovered()))
    assert page.open == []
    console = Console(width=200)
    with console.capture() as shown:
        console.print(prune_summary(recovered()))
    for text in (" ".join(page.text.split()), render_card(recovered()).replace("\\", "")):
        assert "3, 4 into 2 (strength 0.93, 6,144 tokens)" in text
        assert "Left alone: 26 (no change" in text
        assert "Warning: recovery made the model worse on stdlib-code" in text
        assert "37.5 ± 1.5" in text
    assert "37.5 ± 1.5" in shown.get()
    assert "<helped>" not in render_page(recovered())
