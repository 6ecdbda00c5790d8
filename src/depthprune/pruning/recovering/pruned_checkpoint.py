"""A checkpoint that was pruned before, and whether its original can recover it.

What is recovered is cut from the original anew, which is right only while the checkpoint holds the
original's bytes; so one that was trained or recovered since is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from depthprune.checkpoints.checkpoint import Checkpoint, open_checkpoint
from depthprune.checkpoints.fingerprint import first_difference
from depthprune.errors import CheckpointError, ModelError, UsageError
from depthprune.evaluator import RemovedSet
from depthprune.manifest import Manifest
from depthprune.models.source import ModelSource
from depthprune.objectives import parse_objective
from depthprune.outputs import MANIFEST_NAME, OutputTarget, is_gguf
from depthprune.progress import Progress
from depthprune.pruning.recovering.recovery_step import check_source
from depthprune.pruning.session import require_original
from depthprune.recovery import refuse_quantized_config
from depthprune.removed_sets import check_removed


@dataclass(frozen=True)
class PrunedCheckpoint:
    """A folder that depthprune pruned.

    Attributes:
        folder: Where it lies.
        opened: Its files.
        manifest: What was done to it.
    """

    folder: Path
    opened: Checkpoint
    manifest: Manifest

    @classmethod
    def read(cls, folder: Path) -> PrunedCheckpoint:
        """Read a folder.

        Raises:
            CheckpointError: If its files are damaged.
            UsageError: If it is a GGUF, or depthprune did not prune it.
        """
        if is_gguf(folder):
            raise UsageError(
                f"{folder}: expected a checkpoint folder, and the weights of a GGUF are never "
                "changed; prune its original into a folder, which can be recovered"
            )
        opened = open_checkpoint(folder)
        file = folder / MANIFEST_NAME
        if not file.exists():
            raise UsageError(
                f"{folder}: expected a checkpoint that depthprune pruned, found no "
                f"{MANIFEST_NAME}, which says what was removed; prune the original"
            )
        return cls(folder, opened, Manifest.read(file))

    def require_recoverable(self, source: ModelSource, out: OutputTarget) -> None:
        """Refuse what cannot be recovered by an original, as far as files and manifest tell.

        Args:
            source: The original.
            out: What is to be written.

        Raises:
            ModelError: If it is another's, or its weights cannot be recovered.
            UsageError: If `out` is one of the two, or it was recovered already.
        """
        for other in (self.folder, source.folder if source.gguf is None else None):
            if other is not None and out.is_same(other):
                raise UsageError(f"-o {out}: is read here; choose another folder")
        check_source(source)
        refuse_quantized_config(str(self.folder), self.opened.config)
        if self.manifest.recovery is not None:
            raise UsageError(
                f"{self.folder}: was recovered already; recover the checkpoint from before, or "
                "prune the original with --recover"
            )
        if self.manifest.model.fingerprint is None:
            raise ModelError(
                f"{self.folder}: was pruned from pickled weights, which have no fingerprint to "
                "know the original by; prune the original with --recover, or save it as "
                "safetensors and prune that"
            )
        require_original(self.manifest, self.folder, source)

    def removed(self, blocks: int) -> RemovedSet:
        """What the manifest says was removed of so many blocks; its objective, too, must be known.

        Raises:
            CheckpointError: If one of the two is not.
        """
        try:
            parse_objective(self.manifest.objective or "nll")
            return check_removed(self.manifest.removed, blocks, flag="removed")
        except UsageError as error:
            raise CheckpointError(
                f"{self.folder / MANIFEST_NAME}: {error}; prune the original again"
            ) from error

    def require_unchanged(
        self, dense: Checkpoint, removed: RemovedSet, prefix: str, progress: Progress
    ) -> None:
        """Refuse weights that are not those of the original any more.

        Args:
            dense: The original's files.
            removed: What was removed of it.
            prefix: What the names of the blocks' tensors begin with.
            progress: Where the comparison shows itself.

        Raises:
            CheckpointError: Naming the first that differs.
        """
        with progress.step("comparing the checkpoint with its original", None, ""):
            different = first_difference(self.opened, dense, removed, prefix)
        if different is not None:
            raise CheckpointError(
                f"{self.folder}: {different} is not the original's, so the weights were "
                "changed after pruning; recover the checkpoint as depthprune wrote it"
            )
