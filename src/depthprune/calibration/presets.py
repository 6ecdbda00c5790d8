"""Calibrations by name: our default, the paper's two, and those of peers.

`default` is a mixture, because a mixture of domains keeps more abilities than any one of them
(arXiv 2606.03328), of text that is on every machine, so that the first command works offline; and
it is 8,192 tokens, because with fewer the draw's noise decides. A user's own text is better.

The others are what was published, as near as one evaluator for all allows: windows come from
outside the last tenth of what is read, do not overlap, and empty lines are no documents. They read
from the hub. What was chosen on them depends on the objective too, which is another flag; `note`
says which one goes with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from depthprune.calibration.parsing import is_file, parse_line, read_file
from depthprune.calibration.rules import check_spec
from depthprune.calibration.spec import CalibrationSpec
from depthprune.errors import UsageError


@dataclass(frozen=True)
class Preset:
    """A named list of specs.

    Attributes:
        specs: In the one-line form; mixed by their weights.
        summary: A line about it.
        note: The objective and whatever else goes with it where it was published.
    """

    specs: tuple[str, ...]
    summary: str
    note: str = ""


_C4 = "files=en/c4-train.00000-of-01024.json.gz,rows=10000"
_C4_REVISION = "revision=607bd4c8450a42878aa9ddc051a65a055450ef87"

PRESETS = {
    "default": Preset(
        ("stdlib-prose,windows=8,length=512", "stdlib-code,windows=8,length=512"),
        "prose and code that every Python carries, half and half, 8,192 tokens",
    ),
    # arXiv 2604.24938, calibration (a); it does not say how windows are cut.
    "paper-ppl": Preset(
        (f"hub:allenai/c4,windows=64,length=2048,{_C4},{_C4_REVISION}",),
        "the paper's (a): C4, 64 windows of 2,048 tokens, from the first 10,000 pages",
        "goes with --objective nll",
    ),
    # arXiv 2604.24938, calibration (b).
    "paper-margin": Preset(
        ("commonsense-170k,windows=128",),
        "the paper's (b): 128 items of Commonsense-170k",
        "goes with --objective margin",
    ),
    # SLEB, data_utils.get_wikitext2_trainenc: 128 shuffled lines in consecutive windows.
    "sleb": Preset(
        ("hub:Salesforce/wikitext,documents=128,windows=all,length=2048,name=wikitext-2-raw-v1",),
        "SLEB's: 128 lines of WikiText-2, in windows of 2,048 tokens (about five)",
        "goes with --objective nll --search greedy, first and last block protected",
    ),
    # EvoPress, scripts/run_drop_search.sh: 131,072 tokens, pages of up to 8,192 tokens unjoined.
    "evopress": Preset(
        (
            "hub:HuggingFaceFW/fineweb-edu,tokens=131072,length=8192,pack=false,min_length=2,"
            "name=sample-10BT,rows=10000",
        ),
        "EvoPress's: pages of FineWeb-Edu, each a window of at most 8,192 tokens, 131,072 in all",
        "goes with --objective kl --search evolution",
    ),
    # Shortened LLaMA, anal_block_sensitivity_ppl.py: 10 sequences of 128 tokens, seed 1234.
    "shortened-llm": Preset(
        (
            "hub:bookcorpus/bookcorpus,windows=10,length=128,seed=1234,pack=false,bos=true,"
            "revision=refs/convert/parquet,rows=1000000",
        ),
        "Shortened LLaMA's: 10 windows of 128 tokens of BookCorpus, each within one document",
        "goes with --objective nll --search one-shot, or --search taylor; 1,280 tokens are few",
    ),
}


def parse_calibration(specs: str | CalibrationSpec | Iterable[str | CalibrationSpec]) -> list[
    CalibrationSpec
]:  # fmt: skip
    """Read specs, presets and YAML files written out.

    Args:
        specs: One spec or several: in the one-line form, the name of a preset, the name of a
            YAML file, or parsed.

    Raises:
        UsageError: Naming everything that is wrong, or if there is no spec.
        CalibrationError: If a YAML file cannot be read.
    """
    if isinstance(specs, (str, CalibrationSpec)):
        specs = [specs]
    parsed: list[CalibrationSpec] = []
    problems: list[str] = []
    for spec in specs:
        try:
            parsed.extend(_written_out(spec))
        except UsageError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("; ".join(problems))
    if not parsed:
        raise UsageError("-c: expected at least one calibration, got none")
    if sum(spec.weight for spec in parsed) == float("inf"):
        raise UsageError("-c: the sources' weight= sum to infinity; give smaller ones")
    worst = {spec.reduction == "worst-domain" for spec in parsed}
    if len(worst) > 1:
        raise UsageError(
            "-c: reduction=worst-domain is of the whole mixture; say it of every source, or of none"
        )
    return parsed


def _written_out(spec: str | CalibrationSpec) -> list[CalibrationSpec]:
    if isinstance(spec, CalibrationSpec):
        check_spec(spec)
        return [spec]
    if spec.strip() in PRESETS:
        return [parse_line(line) for line in PRESETS[spec.strip()].specs]
    if is_file(spec):
        return [each for entry in read_file(spec) for each in _written_out(entry)]
    head = spec.replace(":", ",").split(",", 1)[0].strip()
    if head in PRESETS:
        raise UsageError(f"calibration {spec!r}: a preset takes no keys; write its specs")
    return [parse_line(spec, also=PRESETS)]
