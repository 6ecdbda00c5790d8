"""The page `report.html`: one file that says what was done and asks the network for nothing.

Names, specs and model output are text from elsewhere, so everything is escaped, and a content
policy in the page lets no script run but its own, known by its hash. A section stands or falls
with its records: `SECTIONS` names each once, in the order of the page, with what it needs.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable

from markupsafe import Markup

from depthprune.manifest import Manifest
from depthprune.report import figures, numbers, summary
from depthprune.report.draft import draft_svg
from depthprune.report.export import svg
from depthprune.report.target import target_svg
from depthprune.report.templating import environment, source
from depthprune.report.training_figure import training_svg

_MOST_ROWS = 500

SECTIONS: dict[str, tuple[str, Callable[[Manifest], bool]]] = {
    "mask": ("Which blocks went", lambda m: True),
    "target": ("Which calibration was chosen", lambda m: m.target is not None),
    "draft": ("What it is worth as a draft", lambda m: m.draft is not None),
    "quality": ("What was lost", lambda m: bool(m.held_out)),
    "recovery": ("What recovery gave back", lambda m: m.recovery is not None),
    "answers": ("What is answered in words", lambda m: bool(m.answers)),
    "gains": ("What was won", lambda m: m.size is not None or m.speed is not None),
    "sample": ("What both models write", lambda m: m.sample is not None),
    "blocks": ("What each block is worth", lambda m: bool(m.blocks)),
    "path": ("Loss against blocks removed", lambda m: bool(m.path)),
    "calibration": ("Calibration", lambda m: bool(m.calibration)),
    "search": ("Search and its cost", lambda m: m.search is not None),
    "parity": ("Parity", lambda m: m.parity is not None),
    "reproduce": ("Make it again", lambda m: True),
}
"""The sections of the page: an id, which is also its template's name, a title, what it needs."""


def render_page(manifest: Manifest) -> str:
    """The report as a self-contained HTML document.

    Args:
        manifest: Fields that are None leave their section out.
    """
    script = source("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        environment(autoescape=True)
        .get_template("report.html.jinja")
        .render(
            m=manifest,
            sections=[(name, title) for name, (title, has) in SECTIONS.items() if has(manifest)],
            tiles=_tiles(manifest),
            figures=_figures(manifest),
            most_rows=_MOST_ROWS,
            style=Markup(source("report.css")),
            script=Markup(script),
            script_hash=digest,
        )
    )


def _tiles(manifest: Manifest) -> list[summary.Comparison]:
    """The figures that lead the page, without their errors, which the tables below give."""
    tiles = summary.held_out_comparisons(manifest)
    if manifest.size is not None:
        tiles += summary.size_comparisons(manifest.size)
    if manifest.speed is not None:
        tiles += summary.speed_comparisons(manifest.speed, ranges=False)
    return tiles


def _figures(manifest: Manifest) -> dict[str, Markup]:
    drawn = {"mask": _mask(manifest)}
    if manifest.blocks:
        drawn["blocks"] = _bars(manifest)
    if manifest.path:
        drawn["path"] = _path(manifest)
    if manifest.speed is not None:
        drawn["speed"] = svg(
            figures.speed_bars(manifest.speed),
            "Tokens a second before and after",
            "; ".join(
                f"{line.name}: {line.before} before, {line.after} after"
                for line in summary.speed_comparisons(manifest.speed)
            ),
        )
    target = target_svg(manifest)
    if target is not None:
        drawn["target"] = target
    draft = draft_svg(manifest)
    if draft is not None:
        drawn["draft"] = draft
    training = training_svg(manifest)
    if training is not None:
        drawn["training"] = training
    return {name: Markup(drawing) for name, drawing in drawn.items()}


def _mask(manifest: Manifest) -> str:
    protect = manifest.search.protect if manifest.search else []
    return svg(
        figures.mask_strip(manifest.model.blocks, manifest.removed, protect),
        f"The {manifest.model.blocks} blocks of the original, {len(manifest.removed)} of them gone",
        f"Removed: {numbers.block_list(manifest.removed)}. Kept: "
        f"{numbers.block_list(manifest.kept)}.",
    )


def _bars(manifest: Manifest) -> str:
    scores = manifest.blocks or []
    finite = [score for score in scores if math.isfinite(score.increase)]
    ranked = sorted(finite, key=lambda score: score.increase)
    extremes = (
        f"Least for block {ranked[0].block}, most for block {ranked[-1].block}. " if ranked else ""
    )
    dense = manifest.dense.loss if manifest.dense else None
    return svg(
        figures.block_bars(scores, manifest.removed, dense),
        "Increase in loss when each block alone is removed",
        f"{extremes}The values are in the table that follows.",
    )


def _path(manifest: Manifest) -> str:
    path = manifest.path or []
    dense = dense_held_out(manifest)
    increase = manifest.search.max_increase if manifest.search else None
    limit = None
    if dense is not None and increase is not None:
        limit = dense + increase * abs(dense)
    return svg(
        figures.path_curve(
            path,
            dense=manifest.dense.loss if manifest.dense else None,
            held_out_dense=dense,
            limit=limit,
            chosen=len(manifest.removed),
            objective=manifest.objective,
        ),
        "Loss against the number of blocks removed",
        f"From {min(point.k for point in path)} to {max(point.k for point in path)} blocks; "
        f"{len(manifest.removed)} were removed. The values are in the table that follows.",
    )


def dense_held_out(manifest: Manifest) -> float | None:
    """The whole model's held-out loss over the mixture, or None where it is not known.

    It is the path's own where the path starts at k = 0, else the mean of the held-out texts under
    the weights of the calibration.
    """
    for point in manifest.path or []:
        if point.k == 0 and point.held_out is not None:
            return point.held_out
    held_out, mixture = manifest.held_out or [], manifest.calibration or []
    if not held_out or len(held_out) != len(mixture):
        return None
    return sum(
        record.dense.loss * part.weight for record, part in zip(held_out, mixture, strict=True)
    )
