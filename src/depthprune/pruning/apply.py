"""Surgery as a user asks for it: a folder in, a folder out, whole or not at all; or a GGUF each.

Without `verify`, every check that needs no weights is made, and a model type that no test has
proved is refused: a wrong cut loads and runs and is only worse, so it must not be written on a
guess. With `verify`, the cut is reloaded and compared with the original before it is published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from depthprune.checkpoints.checkpoint import open_checkpoint
from depthprune.checkpoints.config.cut import rows_of
from depthprune.checkpoints.fingerprint import fingerprint, fingerprint_file
from depthprune.checkpoints.peft_adapter import (
    is_adapter,
    open_adapter,
    write_adapter,
)
from depthprune.checkpoints.purpose import other_loader
from depthprune.checkpoints.surgery import Surgery, write_pruned
from depthprune.claims import staged
from depthprune.errors import OutputError, UsageError
from depthprune.manifest import Manifest, ParityRecord, Size, SourceModel, versions
from depthprune.models.auto_class import needs_code
from depthprune.models.completed import completed
from depthprune.models.source import check_code
from depthprune.outputs import OutputTarget, as_target, check_target, is_gguf
from depthprune.progress import SILENT, Progress
from depthprune.pruning.lineage import cut_from
from depthprune.removed_sets import check_removed, parse_blocks


def apply(
    checkpoint: str | Path,
    removed: str | Iterable[int],
    out: str | Path | OutputTarget,
    *,
    verify: bool = False,
    overwrite: bool = False,
    link: bool = False,
    trust_remote_code: bool = False,
    command: str | None = None,
    progress: Progress = SILENT,
    finish: Callable[[Manifest, OutputTarget], Manifest] | None = None,
) -> Surgery:
    """Write a checkpoint without some of its blocks.

    Args:
        checkpoint: A checkpoint folder, a GGUF file, or the folder of a PEFT adapter.
        removed: Original block numbers, or a text such as `"4,12-14,25"`.
        out: The folder to write; of a GGUF the file, with its manifest beside it.
        verify: Reload the result and compare its logits with the original's, the blocks skipped
            in place. Needed for a model type that is not on the list of verified ones.
        overwrite: Replace what an earlier run wrote in `out`.
        link: Share the weight files of a folder in which nothing changes with the original: as
            reflinks where the file system can, else as hard links.
        trust_remote_code: Let the model's own Python code run for `verify`.
        command: The command line that repeats this, for the manifest.
        progress: Shows long steps.
        finish: Adds files beside the weights before they are published, given where the output
            is staged; gives the manifest that names them.

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
    source, target = Path(checkpoint), as_target(out)
    gguf = is_gguf(source)
    blocks = parse_blocks(removed) if isinstance(removed, str) else tuple(removed)
    writing = _Writing(
        target, verify, overwrite, trust_remote_code, command=command, progress=progress,
        finish=finish,
    )  # fmt: skip
    if link and (gguf or is_adapter(source)):
        raise UsageError(
            f"--link: shares the unchanged shards of a folder, and {source} is one file; leave it "
            "out"
        )
    if gguf:
        return _apply_gguf(source, blocks, writing)
    if target.is_file:
        raise OutputError(
            f"-o {out}: a folder is cut into a folder; give one, or convert the whole model to a "
            "GGUF with llama.cpp first and cut that"
        )
    if is_adapter(source):
        return _apply_adapter(source, blocks, replace(writing, finish=None))
    return _apply_folder(source, blocks, writing, name=str(checkpoint), link=link)


@dataclass(frozen=True)
class _Writing:
    """What is the same for a folder, a GGUF and an adapter: stage, cut, prove, tell, publish."""

    out: OutputTarget
    verify: bool
    overwrite: bool
    trust_remote_code: bool
    command: str | None
    progress: Progress
    finish: Callable[[Manifest, OutputTarget], Manifest] | None

    def write(
        self,
        original: Path,
        cut: Callable[[Path], Surgery],
        describe: Callable[[Surgery], SourceModel],
    ) -> Surgery:
        """Publish what `cut` writes into the place it is given, proved if that is asked for."""
        with staged(self.out, overwrite=self.overwrite) as stage:
            surgery = cut(stage)
            parity = self._proved(original, stage, surgery) if self.verify else None
            gone = surgery.removed
            first = cut_from(original, len(gone) + len(surgery.kept), gone)
            model = describe(surgery).model_copy(update={"cut_from": first})
            manifest = _manifest(model, surgery, self.command, parity)
            if self.finish is not None:
                manifest = self.finish(manifest, self.out.at(stage))
            manifest.write(self.out.at(stage).manifest)
        return surgery

    def _proved(self, original: Path, stage: Path, surgery: Surgery) -> ParityRecord:
        # Imports torch, which surgery alone must not.
        from depthprune.models.parity import verify_checkpoint

        return verify_checkpoint(
            original,
            stage,
            surgery.removed,
            trust_remote_code=self.trust_remote_code,
            progress=self.progress,
        )


def _apply_folder(
    source: Path, removed: tuple[int, ...], writing: _Writing, *, name: str, link: bool
) -> Surgery:
    opened = open_checkpoint(source)
    if writing.verify:
        check_code(str(source), opened.config, writing.trust_remote_code)
    rows_of(opened.config, proved=not writing.verify)
    blocks = check_removed(removed, opened.blocks)
    _refuse_itself(source, writing.out)
    check_target(writing.out, overwrite=writing.overwrite)
    if writing.verify:
        opened = completed(opened, trust_remote_code=writing.trust_remote_code)
    return writing.write(
        opened.folder,
        lambda stage: write_pruned(opened, blocks, stage, link=link, progress=writing.progress),
        lambda _: SourceModel(
            name=name,
            kind="folder",
            model_type=opened.model_type,
            blocks=opened.blocks,
            fingerprint=fingerprint(opened),
            loader=other_loader(opened),
            code=writing.verify and needs_code(opened.config),
        ),
    )


def _apply_gguf(source: Path, removed: tuple[int, ...], writing: _Writing) -> Surgery:
    from depthprune.checkpoints.gguf.reader import read_gguf
    from depthprune.checkpoints.gguf.rules import check_architecture
    from depthprune.checkpoints.gguf.surgery import cut_gguf, write_gguf

    out = writing.out
    if not out.is_file:
        raise OutputError(f"-o {out}: a GGUF is cut into a GGUF; give a name that ends in .gguf")
    file = read_gguf(source)
    check_architecture(file, known=not writing.verify)
    cut = cut_gguf(file, removed)
    if out.is_same(source):
        raise OutputError(f"-o {out}: is the model itself; choose another name")
    return writing.write(
        source,
        lambda stage: write_gguf(cut, stage, writing.progress),
        lambda _: SourceModel(
            name=str(source),
            kind="gguf",
            model_type=file.architecture,
            blocks=file.blocks,
            fingerprint=fingerprint_file(source, file.tensors),
        ),
    )


def _apply_adapter(source: Path, removed: tuple[int, ...], writing: _Writing) -> Surgery:
    if writing.verify:
        raise UsageError(
            "--verify: an adapter computes nothing without its base; verify the base's own cut"
        )
    adapter = open_adapter(source)
    _refuse_itself(source, writing.out)
    return writing.write(
        source,
        lambda stage: write_adapter(adapter, removed, stage, progress=writing.progress),
        lambda surgery: SourceModel(
            name=str(source),
            kind="folder",
            model_type=adapter.kind,
            blocks=len(surgery.removed) + len(surgery.kept),
            fingerprint=fingerprint_file(adapter.file.path, adapter.file.tensors),
        ),
    )


def _refuse_itself(source: Path, out: OutputTarget) -> None:
    if out.is_same(source):
        raise OutputError(f"-o {out}: is the checkpoint itself; choose another folder")


def _manifest(
    model: SourceModel,
    surgery: Surgery,
    command: str | None,
    parity: ParityRecord | None,
) -> Manifest:
    return Manifest(
        schema=1,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command,
        model=model,
        removed=list(surgery.removed),
        kept=list(surgery.kept),
        dtype=surgery.dtype,
        size=Size(
            parameters_before=surgery.parameters_before,
            parameters_after=surgery.parameters_after,
            bytes_before=surgery.bytes_before,
            bytes_after=surgery.bytes_after,
            bytes_source=surgery.bytes_before if model.kind == "gguf" else None,
        ),
        parity=parity,
        versions=versions(),
        files=list(surgery.files),
    )
