"""What recovery gave back is told on the page, on the card and in the terminal alike."""

from __future__ import annotations

from rich.console import Console

from depthprune.cli.tables import prune_summary
from depthprune.report import recovery as recovery_report
from depthprune.report import summary
from depthprune.report.card import render_card
from depthprune.report.page import render_page

from .examples import full, recovered
from .test_page import Page


def test_each_text_has_its_three_perplexities_and_the_paired_change() -> None:
    first, second, third = recovery_report.recovery_lines(recovered())
    assert first.name == "perplexity, stdlib-prose (held out)"
    assert (first.pruned, first.recovered) == ("46.9 ± 1.9", "37.5 ± 1.5")
    assert first.change == "× 0.8000 ± 0.0090"
    assert second.change.startswith("× 1.1")
    assert third.name == "perplexity, plays.txt (not fitted)"


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
    line = recovery_report.recovery_lines(recovered(held_out=plain, objective="kl"))[0]
    assert (line.name, line.recovered) == ("kl loss, stdlib-prose (held out)", "3.625 ± 0.040")
    assert line.change == "\N{MINUS SIGN}0.223 ± 0.011"


def test_items_have_their_accuracy_in_percent_and_points() -> None:
    manifest = recovered()
    assert manifest.recovery is not None
    record = manifest.recovery.further[0]
    wrong = {
        name: getattr(record, name).model_copy(update={"loss": loss, "stderr": 0.04})
        for name, loss in (("dense", 0.5), ("pruned", 0.7), ("recovered", 0.6))
    }
    change = {"recovered_change": -0.1, "recovered_change_stderr": 0.03}
    items = record.model_copy(update={"objective": "accuracy", **wrong, **change})
    recovery = manifest.recovery.model_copy(update={"choices": [items]})
    line = recovery_report.recovery_lines(recovered(recovery=recovery))[-1]
    assert line.name == "accuracy in %, plays.txt"
    assert (line.dense, line.pruned, line.recovered) == ("50.0 ± 4.0", "30.0 ± 4.0", "40.0 ± 4.0")
    assert line.change == "+10.0 ± 3.0"


def test_what_was_not_judged_is_named() -> None:
    manifest = recovered()
    assert recovery_report.unmeasured_words(manifest) == (
        "Recovery was not judged on items with options; --also names some."
    )
    assert "not judged on items with options" in render_card(manifest).replace("\\", "")
    assert recovery_report.unmeasured_words(full()) == ""


def test_the_headline_is_of_the_model_that_was_written() -> None:
    assert "24.7 → 37.5" in summary.headline(recovered())
    assert "24.7 → 46.9" in summary.headline(full())


def test_a_manifest_without_recovery_tells_nothing_of_it() -> None:
    assert recovery_report.recovery_lines(full()) == []
    assert recovery_report.recovery_words(full()) == ""


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


def test_a_card_says_no_more_was_folded_than_was() -> None:
    record = recovered().recovery
    assert record is not None
    left = record.model_copy(update={"runs": record.runs[2:]})
    assert "24 blocks are unchanged" in render_card(recovered(recovery=left))
    scaled = [record.runs[0].model_copy(update={"factor": 1.2})]
    update = {"method": "magnitude", "runs": scaled}
    card = render_card(recovered(recovery=record.model_copy(update=update)))
    assert "scales that mend part of what removal broke were multiplied into the weights" in card
    assert "maps" not in card
