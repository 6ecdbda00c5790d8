"""The page that the census writes: every type, its row in the table, and how far the job goes.

What a run of the census found stands in the page itself, so the page can be read back: the table
of architectures may change between two runs of the census, and what was found may not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import transformers

from depthprune.checkpoints.architectures.schema import Architecture
from depthprune.checkpoints.architectures.table import architectures
from depthprune.checkpoints.gguf.architectures import listed_architectures

PAGE = Path(__file__).parent.parent / "docs" / "architectures.md"

STEPS = ("cut", "scored", "searched", "streamed", "parity", "recovered")
NEEDED = STEPS[:-1]
"""Without one of these a type is not counted as supported; recovery is a choice."""

DONE = "yes"
Steps = Mapping[str, str]
"""What became of each step of one type: `yes`, or the reason why not."""

_HEAD = """# Architectures

<!-- Written by `make census`; edit the rows in src/depthprune/checkpoints/architectures. -->

Every model type that transformers {version} maps to a causal language model: {total}. The census
(`make census`) builds each at a tiny size with random weights and takes it through the whole job:

- **cut**: single blocks, the first, the last, neighbours, scattered ones, ones that break a period,
  and every block of one type are removed by surgery. The reloaded checkpoint has no key missing or
  unexpected, its float32 logits are those of the original with the blocks skipped in place (to
  {limit:.0e} of their scale), and it generates with a cache what it generates without.
- **scored**: losses of removed sets are those of plain masked forwards (to {limit:.0e}).
- **searched**: a greedy step ends in the set that plain forwards find.
- **streamed**: read block by block, the losses are those of the model held in memory.
- **parity**: `dp.prune` writes a checkpoint, and proves it by its own means.
- **recovered**: the same with `recover="linear"`: a map is folded into the block before the cut,
  and the proof holds with it.

A step that a type does not take is named below its table, with the reason.

- **verified** ({verified}): {counts}.
- **refused** ({refused}): depth enters in a way that cannot be rewritten.
- **not a decoder** ({others}): there is no language model of blocks to cut.

`depthprune architectures` prints the same rules. "By field" means that the rules for fields of the
config are enough: lists with one entry a block are cut, sets of block numbers renumbered, counts of
leading blocks counted anew. A type without a row is cut by these rules too, but only to be compared
with the original before anything is written: `apply` asks for `--verify`, `prune` always compares.

"""

_MULTIMODAL_HEAD = """
## Pictures, sound and text

Types that transformers {version} maps to a model of several modalities alone: {total}, of which
{refused} are refused and {others} not decoders. {verified} are verified: {counts}. The language
model is cut and compared on text as above, and every other tensor is the original's, byte for byte.

"""

_OTHER_HEAD = """
## Language models inside those, and types of other versions

Cut by the same rules, as part of a type above or with a version of transformers that maps them.

| type | status | rule | why |
|---|---|---|---|
"""

_GGUF_HEAD = """
## GGUF

What llama.cpp derives from a block's number and a file does not say. An architecture that is not
here is cut only with `--verify`. "By field" means that the file says all that differs: arrays with
one entry a block are cut, counts of leading blocks counted anew.

| architecture | status | rule | why |
|---|---|---|---|
"""

_COLUMNS = f"| type | status | {' | '.join(STEPS)} | rule | why |\n|{'---|' * (len(STEPS) + 4)}\n"
_LEFT_OUT = "- not {step}, since {reason}: {types}\n"
_LEFT_OUT_LINE = re.compile(r"^- not (\w+), since (.*): (`[^`]+`(?:, `[^`]+`)*)$")


def page(
    found: Mapping[str, Steps], causal: Iterable[str], multimodal: Iterable[str], limit: float
) -> str:
    """What `docs/architectures.md` holds.

    Args:
        found: The steps of each verified type.
        causal: Types of the first table.
        multimodal: Types of the second.
        limit: What logits and losses were held to.
    """
    table = architectures()
    parts, listed = [], set()
    for head, names in ((_HEAD, set(causal)), (_MULTIMODAL_HEAD, set(multimodal))):
        rows = [row for row in table if row.model_type in names]
        listed |= names
        number = Counter(row.status for row in rows)
        parts += [
            head.format(
                version=transformers.__version__,
                total=len(names),
                limit=limit,
                verified=number["verified"],
                refused=number["refused"],
                others=number["not a decoder"],
                counts=_counts([found[r.model_type] for r in rows if r.status == "verified"]),
            ),
            _COLUMNS,
            *(_line(row, found.get(row.model_type)) for row in rows),
            _left_out({r.model_type: found[r.model_type] for r in rows if r.model_type in found}),
        ]
    others = [row for row in table if row.model_type not in listed]
    parts.append(_OTHER_HEAD + _lines((r.model_type, r.status, r.rule, r.why) for r in others))
    gguf = ((r.name, r.status, r.rule, r.refused) for r in listed_architectures())
    parts.append(_GGUF_HEAD + _lines(gguf))
    return "".join(parts)


def read_page(text: str) -> dict[str, dict[str, str]]:
    """What a run of the census found, as its page says it."""
    reasons = {
        (name.strip("`"), step): reason
        for step, reason, names in _left_out_lines(text)
        for name in names.split(", ")
    }
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) < len(STEPS) + 2 or not cells[0].startswith("`"):
            continue
        name, said = cells[0].strip("`"), cells[2 : 2 + len(STEPS)]
        if "–" not in said:
            found[name] = {
                step: DONE if word == DONE else reasons[name, step]
                for step, word in zip(STEPS, said, strict=True)
            }
    return found


def _left_out_lines(text: str) -> list[tuple[str, str, str]]:
    lines = (_LEFT_OUT_LINE.match(line) for line in text.splitlines())
    return [(m[1], m[2], m[3]) for m in lines if m is not None]


def supported(found: Mapping[str, Steps], types: Iterable[str]) -> int:
    """How many of some types go through every step that is needed."""
    return sum(all(found[name][step] == DONE for step in NEEDED) for name in types if name in found)


def _counts(rows: list[Steps]) -> str:
    return ", ".join(f"{sum(row[step] == DONE for row in rows)} {step}" for step in STEPS)


def _line(row: Architecture, steps: Steps | None) -> str:
    said = ("–" if steps is None else DONE if steps[step] == DONE else "no" for step in STEPS)
    cells = (f"`{row.model_type}`", row.status, *said, row.rule, row.why)
    return f"| {' | '.join(cells)} |\n"


def _left_out(found: Mapping[str, Steps]) -> str:
    types: dict[tuple[str, str], list[str]] = {}
    for name, steps in found.items():
        for step in STEPS:
            if steps[step] != DONE:
                types.setdefault((step, steps[step]), []).append(f"`{name}`")
    lines = [
        _LEFT_OUT.format(step=step, reason=reason, types=", ".join(names))
        for (step, reason), names in sorted(types.items(), key=lambda e: (STEPS.index(e[0][0]), e))
    ]
    return "\n" + "".join(lines) if lines else ""


def _lines(rows: Iterable[tuple[str, str, str, str]]) -> str:
    return "".join(f"| `{name}` | {' | '.join(rest)} |\n" for name, *rest in rows)
