import pytest

from depthprune.report import summary

from .examples import full, minimal


def test_a_source_is_named_without_its_keys():
    specs = ["stdlib-prose,windows=8,seed=0", "text:../a/wiki.txt,length=512", "hub:org/set,name=x"]
    assert summary.source_labels(specs) == ["stdlib-prose", "wiki.txt", "hub:org/set"]


def test_sources_of_one_name_keep_their_whole_spec():
    specs = ["text:a/x.txt,seed=0", "text:b/x.txt,seed=0"]
    assert summary.source_labels(specs) == specs


def test_a_comma_in_a_file_name_is_not_a_key():
    assert summary.source_labels(["text:one, two.txt,windows=4"]) == ["one, two.txt"]
    assert summary.source_labels(["text:a/b\\,windows=2.txt,windows=4"]) == ["b,windows=2.txt"]
    assert summary.source_labels(["csv:a/b.csv,windows=4", "tsv:a/c.tsv"]) == ["b.csv", "c.tsv"]


def test_the_headline_says_only_what_was_measured():
    assert summary.headline(minimal()) == "6 of 30 blocks removed."
    assert summary.headline(full(held_out=None, speed=None)) == (
        "6 of 30 blocks removed: 16% fewer parameters."
    )


def test_a_slower_model_is_not_called_faster():
    speed = full().speed
    swapped = speed.model_copy(update={"decode_after": speed.prefill_before.model_copy(
        update={"median": speed.decode_before.median / 2}
    )})  # fmt: skip
    assert "decode at 0.50× the speed" in summary.headline(full(speed=swapped))


def test_bytes_that_never_lay_on_disk_are_not_said_to_have():
    unpacked = full()
    assert summary.size_comparisons(unpacked.size)[1].name == "bytes as safetensors"
    told = "The file that the model came from holds 144.8 MB; bytes before are those of the same"
    assert told in summary.unpacked_words(unpacked)
    for source in (None, unpacked.size.bytes_before):
        size = unpacked.size.model_copy(update={"bytes_source": source})
        assert summary.size_comparisons(size)[1].name == "bytes on disk"
        assert summary.unpacked_words(full(size=size)) == ""


@pytest.mark.parametrize("share", [0.998, 1.0, 1.002])
def test_a_model_that_is_as_fast_is_not_called_faster(share):
    speed = full().speed
    after = speed.decode_before.model_copy(update={"median": speed.decode_before.median * share})
    words = summary.headline(full(speed=speed.model_copy(update={"decode_after": after})))
    assert "1.22× faster prefill, decode no faster, 16% fewer parameters." in words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "logits bitwise equal in bfloat16"),
        (
            {"bitwise": False, "logits_difference": 0.125, "float32_difference": 3e-7},
            "logits equal to 4.0e-03 of their scale in bfloat16 and to 3.0e-07 in float32",
        ),
    ],
)
def test_parity_is_told_with_its_figures(changes, words):
    assert words in summary.parity_words(full().parity.model_copy(update=changes))
