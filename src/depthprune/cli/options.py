"""Arguments and flags that more than one verb takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from depthprune.errors import UsageError
from depthprune.threads import settle

ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="A folder, a hub id, a .gguf file, or demo.")
]
Calibrations = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads this at run time, on Python 3.10 too
    typer.Option(
        "-c",
        "--calibration",
        metavar="SPEC",
        help="SOURCE[,key=value]…, such as text:wiki.txt,windows=64,length=512; several are mixed "
        "by weight=. See: depthprune calibrations.",
    ),
]
Objective = Annotated[str, typer.Option(help="What is scored. See: depthprune objectives.")]
Dtype = Annotated[
    str,
    typer.Option(
        help="auto, float32, bfloat16 or float16; auto takes bfloat16 where the processor "
        "multiplies it natively."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Stream = Annotated[
    bool,
    typer.Option(
        "--stream",
        help="For a model larger than memory: read each block from the files when it is run.",
    ),
]
DeviceMap = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="HOW",
        help="Lay the blocks on several devices: auto, balanced, balanced_low_0 or sequential; "
        "needs accelerate.",
    ),
]
Memory = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(metavar="SIZE", help="What hidden states may take, such as 4GB; default half."),
]
MemoPlace = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--memo",
        metavar="PATH|off",
        help="Store of losses, computed once for all runs; by default in the user's cache folder.",
    ),
]
Exact = Annotated[bool, typer.Option("--exact", help="Score every set on every window; no racing.")]
Delta = Annotated[
    float,
    typer.Option(help="Racing: the chance that a choice drops a set that it should have kept."),
]
Tolerance = Annotated[
    str, typer.Option(metavar="SHARE", help="Racing: losses this close are ties, such as 0.1%.")
]
Budget = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="LIMIT",
        help="What the search may spend: evaluations (200), block-tokens (5e7bt), a time (10min).",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Tell what the search would cost, and write nothing.")
]
Draws = Annotated[
    int,
    typer.Option(
        min=1, max=1_000, help="Repeat on so many draws of the calibration, and tell what changes."
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what depthprune wrote in OUT before.")
]
Link = Annotated[
    bool,
    typer.Option(
        "--link",
        help="Share what does not change with the original: by reflinks where the file system "
        "can, else by hard links of weight files in which nothing changes.",
    ),
]
Bench = Annotated[
    Optional[bool],  # noqa: UP045
    typer.Option(
        "--bench/--no-bench",
        help="Measure speed before and after (the default, except with --stream).",
    ),
]
BenchSeconds = Annotated[
    float,
    typer.Option(
        min=1,
        max=86_400,
        help="What measuring the speed may take once OUT is written, and the sample as much.",
    ),
]

EngineName = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--engine",
        metavar="ray[://HOST:PORT]",
        help="Have workers of a Ray cluster compute losses: this machine's, or the one whose head "
        "is there.",
    ),
]
Workers = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(help="With --engine: how many; by default one a GPU, else two a machine."),
]
GpusPerWorker = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(metavar="N", help="With --engine: by default one, where there are any."),
]
CpusPerWorker = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(metavar="N", help="With --engine: by default an even share."),
]


def _settle(threads: int | None) -> int | None:
    settle(threads)
    return threads


Threads = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        min=1,
        max=4_096,
        callback=_settle,
        help="How many threads compute; by default OMP_NUM_THREADS, or as many as this process "
        "may use. Losses of another number are not the same to the bit.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Revision = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Branch, tag or commit of a hub id."),
]
RemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let the model's own Python code run.")
]
Pickle = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Read pickled weights where there are no safetensors."),
]
WAYS = (
    "linear[:refit=2,fit=inputs] (without training: least squares on the calibration, written into "
    "the blocks before those removed and, refit= of them, behind: 0 for all, or none), magnitude "
    "(what is below each gap scaled), lora[:rank=16,steps=200,…] (distillation, merged) "
    "or last[:blocks=3,…] (the same of the last blocks and the head)."
)
Recover = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(metavar="HOW", help=f"Mend what removal breaks: {WAYS}"),
]
Also = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        metavar="SPEC", help="Further text to judge recovery on, such as none of the calibration's."
    ),
]
Answers = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        metavar="SPEC",
        help="Prompts with known answers, which the models answer in words once the checkpoint "
        "stands; their number, or how they begin, is compared. Takes long.",
    ),
]
AnswerTokens = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(min=1, help="With --answers: tokens of an answer at most (default 256)."),
]
For = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--for",
        metavar="SPEC",
        help="What matters: your text, prompts with answers, chats or choices. The calibration is "
        "then chosen by what keeps it, and every -c is tried too; several count by weight=.",
    ),
]
ForSplit = Annotated[
    str,
    typer.Option(
        "--for-split",
        metavar="SHARES",
        help="Percentages of --for that may be calibrated on, choose, and judge.",
    ),
]
ForObjective = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--for-objective",
        metavar="OBJECTIVE",
        help="What is measured on --for; by default option-ce of choices, nll of answers and text.",
    ),
]
Portfolio = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="FILE",
        help="A YAML file of the calibrations that --for tries. See: depthprune calibrations "
        "portfolio.",
    ),
]
KeepGeneral = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="SHARE",
        help="Refuse sets whose loss on the default text is more than this above the best's, such "
        "as 5%.",
    ),
]
Out = Annotated[
    Path, typer.Option("-o", "--out", metavar="OUT", help="Folder to write, or a .gguf file.")
]
OutUnlessDry = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "-o",
        "--out",
        metavar="OUT",
        help="Folder to write, or a .gguf file; not needed with --dry-run.",
    ),
]


def was_given(context: typer.Context, name: str | None) -> bool:
    """Whether a flag stood on the command line; else its value is the default."""
    source = context.get_parameter_source(name or "")
    return source is not None and source.name == "COMMANDLINE"


def require_out(out: Path | None, *, dry_run: bool) -> None:
    """Refuse a run that has nowhere to write.

    Raises:
        UsageError: If there is no `out`, and it is no dry run.
    """
    if out is None and not dry_run:
        raise UsageError("Missing option '-o' / '--out': name what to write")
