"""Surgery as a user asks for it: a folder in, a folder out, whole or not at all.

Without `verify`, every check that needs no weights is made, and a model type that no test has
proved is refused: a wrong cut loads and runs and is only worse, so it must not be written on a
guess. With `verify`, the cut is reloaded and compared with the original before it is published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path

from depthprune.errors import ModelError, OutputError
from depthprune.manifest import Manifest, ParityRecord, Size, SourceModel, versions
from depthprune.models.architectures import require_prunable
from depthprune.models.checkpoint import Checkpoint, open_checkpoint
from depthprune.models.fingerprint import fingerprint
from depthprune.models.removal import check_removed, parse_blocks
from depthprune.models.surgery import Surgery, write_pruned
from depthprune.outputs import MANIFEST_NAME, check_target, staged
from depthprune.progress import SILENT, Progress


def apply(
    checkpoint: str | Path,
    removed: str | Iterable[int],
    out: str | Path,
    *,
    verify: bool = False,
    overwrite: bool = False,
    command: str | None = None,
    progress: Progress = SILENT,
    finish: Callable[[Manifest, Path], Manifest] | None = None,
) -> Surgery:
    """Write a checkpoint without some of its blocks.

    Args:
        checkpoint: A checkpoint folder.
        removed: Original block numbers, or a text such as `"4,12-14,25"`.
        out: The folder to write.
        verify: Reload the result and compare its logits with the original's, the blocks skipped
            in place. Needed for a model type that is not on the list of verified ones.
        overwrite: Replace what an earlier run wrote in `out`.
        command: The command line that repeats this, for the manifest.
        progress: Shows long steps.
        finish: Adds files to the folder before it is published; gives the manifest that names
            them.

    Returns:
        What was written.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged or refused.
        ModelError: If its blocks cannot be found, its type is not verified, or what remains
            cannot be expressed.
        OutputError: If `out` may not be written, or the disk is full.
        ParityError: If `verify` finds a difference. Nothing is left behind.
        UsageError: If the removed set does not fit the model.
    """
    source, target = Path(checkpoint), Path(out)
    blocks = parse_blocks(removed) if isinstance(removed, str) else tuple(removed)
    if source.suffix.lower() == ".gguf":
        raise ModelError(
            f"{source}: surgery reads checkpoint folders, and this is a GGUF file; load it and "
            "save it as a folder first"
        )
    opened = open_checkpoint(source)
    blocks = check_removed(blocks, opened.blocks)
    require_prunable(opened.model_type, proved=not verify)
    if target.exists() and target.resolve() == source.resolve():
        raise OutputError(f"-o {out}: is the checkpoint itself; choose another folder")
    check_target(target, overwrite=overwrite)
    with staged(target, overwrite=overwrite) as stage:
        surgery = write_pruned(opened, blocks, stage, progress=progress)
        parity = _verify(opened, stage, blocks, progress) if verify else None
        manifest = _manifest(opened, surgery, str(checkpoint), command, parity)
        if finish is not None:
            manifest = finish(manifest, stage)
        manifest.write(stage / MANIFEST_NAME)
    return surgery


def _verify(
    checkpoint: Checkpoint, stage: Path, removed: tuple[int, ...], progress: Progress
) -> ParityRecord:
    # Imports torch, which surgery alone must not.
    from depthprune.models.parity import verify_checkpoint

    return verify_checkpoint(checkpoint.folder, stage, removed, progress=progress)


def _manifest(
    checkpoint: Checkpoint,
    surgery: Surgery,
    name: str,
    command: str | None,
    parity: ParityRecord | None,
) -> Manifest:
    return Manifest(
        schema=1,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command,
        model=SourceModel(
            name=name,
            kind="folder",
            model_type=checkpoint.model_type,
            blocks=checkpoint.blocks,
            fingerprint=fingerprint(checkpoint),
        ),
        removed=list(surgery.removed),
        kept=list(surgery.kept),
        dtype=surgery.dtype,
        size=Size(
            parameters_before=surgery.parameters_before,
            parameters_after=surgery.parameters_after,
            bytes_before=surgery.bytes_before,
            bytes_after=surgery.bytes_after,
        ),
        parity=parity,
        versions=versions(),
        files=list(surgery.files),
    )
