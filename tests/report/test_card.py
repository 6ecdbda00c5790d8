import ast
import re

import pytest
import yaml

from depthprune.manifest import FirstModel, SourceModel
from depthprune.report.card import render_card
from depthprune.report.page import render_page

from .examples import calibration, full, minimal, search


def front_matter(card):
    _, matter, _ = card.split("---\n", 2)
    return yaml.safe_load(matter)


def snippet(card):
    return re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)


def hub(name):
    return SourceModel(name=name, kind="hub", model_type="llama", blocks=30)


@pytest.mark.parametrize("manifest", [full(), minimal()])
def test_the_front_matter_is_what_the_hub_reads(manifest):
    assert front_matter(render_card(manifest)) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["depthprune", "pruned"],
    }


def test_a_model_of_the_hub_is_named_as_the_base():
    card = render_card(full(model=hub("HuggingFaceTB/SmolLM2-135M")))
    assert front_matter(card)["base_model"] == "HuggingFaceTB/SmolLM2-135M"


def test_a_model_that_had_been_cut_before_is_told_by_the_first_of_them():
    first = FirstModel(name="a/base", kind="hub", blocks=32, removed=[3, 4, 9])
    source = SourceModel(
        name="./once", kind="folder", model_type="llama", blocks=30, cut_from=first
    )
    card = render_card(full(model=source))
    assert front_matter(card)["base_model"] == "a/base"
    words = (
        "had itself been cut from a/base; of the 32 blocks of that one, 3, 4, 9 are gone in all."
    )
    assert words in card
    assert words in render_page(full(model=source))


@pytest.mark.parametrize("name", ['a: "b"\n- c', "---", "# x", "naïve/模型", "\\u0041", "yes"])
def test_any_name_keeps_the_front_matter_whole(name):
    assert front_matter(render_card(full(model=hub(name))))["base_model"] == " ".join(name.split())


def test_no_licence_is_invented():
    assert "license" not in front_matter(render_card(full()))


def test_the_snippet_is_plain_transformers():
    code = snippet(render_card(full()))
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    loads = [call for call in calls if getattr(call.func, "attr", "") == "from_pretrained"]
    assert len(loads) == 2
    assert {k.arg: ast.literal_eval(k.value) for k in loads[0].keywords} == {"dtype": "auto"}
    assert "depthprune" not in code


def test_the_snippet_loads_the_whole_of_a_model_that_reads_pictures():
    source = SourceModel(name="m", kind="folder", model_type="llava", blocks=30)
    code = snippet(render_card(full(model=source)))
    assert "from transformers import AutoModelForImageTextToText, AutoTokenizer" in code
    assert "AutoModelForImageTextToText.from_pretrained(folder" in code


def test_what_is_no_language_model_is_loaded_as_what_it_is():
    source = SourceModel(
        name="m", kind="folder", model_type="llama", blocks=30,
        loader="AutoModelForSequenceClassification",
    )  # fmt: skip
    card = render_card(minimal(model=source))
    assert front_matter(card)["pipeline_tag"] == "text-classification"
    assert "= AutoModelForSequenceClassification.from_pretrained(folder" in snippet(card)
    assert "generate" not in snippet(card)


def test_code_of_a_models_own_is_allowed_to_run_and_said_to_be_needed():
    source = SourceModel(name="m", kind="folder", model_type="own", blocks=30, code=True)
    card = render_card(full(model=source))
    assert "AutoTokenizer.from_pretrained(folder, trust_remote_code=True)" in snippet(card)
    assert "no special code" not in card


def test_the_snippet_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = ["<unk>", "Once", "upon", "a", "time"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", model_input_names=["input_ids"]
    ).save_pretrained(tmp_path)
    config = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(snippet(render_card(full())), {})
    assert capsys.readouterr().out.startswith("Once upon a time")


def test_the_card_says_what_was_done():
    card = render_card(full())
    assert "without its blocks **3, 4, 12–14, 26** of 0–29" in card
    assert "| perplexity, stdlib-prose | 24.7 ± 1.0 | 46.9 ± 1.9 | × 1.902 ± 0.034 |" in card
    assert "| parameters | 134.5M | 113.3M | −16% |" in card
    assert "The tensors are bfloat16" in card
    assert "bitwise equal in bfloat16" in card
    assert "was not measured and may have suffered more" in card
    assert full().command in card


def test_a_card_of_surgery_alone_claims_nothing():
    card = render_card(minimal())
    assert "## Before and after" not in card
    assert "## How the blocks were chosen" not in card
    assert "Not checked" in card
    assert "What was lost was not measured" in card


def test_the_limit_that_chose_k_is_told():
    card = render_card(full(search=search().model_copy(update={"max_increase": 0.05})))
    assert "the largest whose held-out loss grows by at most 5%" in card


def test_a_name_cannot_break_a_table_or_become_markup():
    evil = "a|b\n<img src=x>`*c*"
    record = full().held_out[0].model_copy(update={"calibration": evil})
    card = render_card(
        full(
            model=SourceModel(name=evil, kind="folder", model_type="llama", blocks=30),
            held_out=[record],
            calibration=[calibration(evil, 0)],
        )
    )
    prose = re.sub(r"(`+).+?\1", "", card.split("---\n", 2)[2], flags=re.DOTALL)
    assert "<img" not in prose
    rows = [line for line in card.splitlines() if line.startswith("| perplexity")]
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == 5


def test_a_command_with_backticks_stays_in_its_block():
    card = render_card(full(command="depthprune prune `x` ```y``` -k 1"))
    assert "````sh\ndepthprune prune `x` ```y``` -k 1\n````" in card


def test_sections_are_set_apart_by_one_blank_line():
    for manifest in (full(), minimal()):
        assert "\n\n\n" not in render_card(manifest)
