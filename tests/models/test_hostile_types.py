"""Where products round by the rows of their call, the right is proven and the wrong refused.

Every type that the fast tests build, and that can be searched at all, is put through the whole job
in bfloat16: found, proven, searched, cut and proven again, ten of them by fast tests; and every
type there is by `make census`. Models that are planted wrong are refused, in either dtype, whether
products round by their rows or otherwise at each call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import depthprune as dp
from census import OLDER
from depthprune.checkpoints.architectures.table import architectures
from depthprune.errors import ModelError, ParityError
from depthprune.models.auto_class import automatic_class_of
from depthprune.models.blocks.find import find_anatomy
from depthprune.models.loading import load
from depthprune.models.parity import reload, verify, verify_checkpoint
from depthprune.pruning.apply import apply
from hostile import hostile_arithmetic
from tiny import save_tiny

pytestmark = pytest.mark.filterwarnings("ignore")

NEWEST = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 23)

FAST = """
bart bert bloom cohere cohere2 deepseek_v3 deepseek_v4 falcon_h1 gemma2 gemma3 gemma3_text
gemma3n_text gemma4 gemma4_text glm_moe_dsa gpt2 gpt_neox granite hy_v3 hy_v4 kimi_linear lfm2
llama llama4 llava mamba minicpm3 mistral mixtral mpt nemotron_h olmo_hybrid opt phi phi3
qwen2 qwen2_5_vl qwen2_moe qwen3_5 qwen3_moe qwen3_next qwen3_vl recurrent_gemma smollm3 xlnet zaya
""".split()  # noqa: SIM905
"""The types that the fast tests build, but for those that are not searched on any machine."""

WHOLE_JOB = """
bart deepseek_v3 gemma2 gemma4_text gpt2 granite llama mixtral nemotron_h
qwen3_vl
""".split()  # noqa: SIM905
"""Those of them whose whole job is fast."""

OTHERS = [
    row.model_type
    for row in architectures()
    if row.status == "verified" and row.model_type not in FAST
]
TEXT = "The mill stands by the water, and nobody works there now; a child wades across it. " * 6


def _params(names: list[str]) -> list[Any]:
    def unknown(name: str) -> bool:
        return name not in CONFIG_MAPPING or (name in OLDER and not NEWEST)

    mark = pytest.mark.skipif
    return [
        pytest.param(name, marks=mark(unknown(name), reason="this transformers does not know it"))
        for name in names
    ]


def _marked(mark: pytest.MarkDecorator, names: list[str]) -> list[Any]:
    return [pytest.param(*each.values, marks=[*each.marks, mark]) for each in _params(names)]


def _saved(model_type: str, folder: Path) -> str:
    """Save a tiny model; the dtype that transformers itself runs it in, bfloat16 if it does."""
    save_tiny(folder, model_type, dtype=torch.bfloat16)
    kind = automatic_class_of(folder)
    module = kind.from_pretrained(str(folder), dtype=torch.bfloat16).eval()
    try:
        with torch.inference_mode():
            module(input_ids=torch.arange(3, 19)[None], use_cache=False)
    except RuntimeError:
        return "float32"
    return "bfloat16"


def _found(model_type: str, folder: Path) -> dp.Model:
    dtype = _saved(model_type, folder)
    with hostile_arithmetic():
        model = load(folder, dtype=dtype, device="cpu")
    assert model.anatomy.proof is not None
    assert model.anatomy.proof.replay == 0.0
    assert model.anatomy.proof.rounding > (1e-3 if dtype == "bfloat16" else 0.0)
    return model


def _whole_job(model_type: str, folder: Path) -> None:
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    model = _found(model_type, folder / "whole")
    with hostile_arithmetic() as mode:
        spec = f"text:{folder}/text.txt,windows=2,length=12,seed=0"
        evaluator = dp.Evaluator(model, dp.calibrate(spec, model))
        result = dp.search("one-shot", evaluator, k=1)
        apply(folder / "whole", result.removed, folder / "cut")
        record = verify(model, reload(folder / "cut", model.dtype, "cpu"), result.removed)
        assert mode.products
    assert result.score.loss < float("inf")
    assert record.bitwise or (record.float32_difference or 0.0) <= 1e-5


@pytest.mark.parametrize("model_type", _params([n for n in FAST if n not in WHOLE_JOB][::3]))
def test_a_type_is_found_and_proven(model_type: str, tmp_path: Path) -> None:
    _found(model_type, tmp_path / "whole")


@pytest.mark.parametrize("model_type", _params(WHOLE_JOB))
def test_a_type_is_found_searched_cut_and_proven(model_type: str, tmp_path: Path) -> None:
    _whole_job(model_type, tmp_path)


@pytest.mark.parametrize(
    "model_type",
    [
        *_marked(pytest.mark.slow, [n for n in FAST if n not in WHOLE_JOB]),
        *_marked(pytest.mark.census, OTHERS),
    ],
)
def test_every_type_is_found_searched_cut_and_proven(model_type: str, tmp_path: Path) -> None:
    try:
        save_tiny(tmp_path / "tried", model_type)
        find_anatomy(load(tmp_path / "tried", dtype="float32", device="cpu").module)
    except (ValueError, ModelError) as error:
        pytest.skip(f"not searched on any machine ({error})"[:120])
    if model_type == "xlstm":
        # Its own chunks mix dtypes from 64 tokens on, which parity reads.
        with pytest.raises(ParityError, match=r"cannot be run in bfloat16 .* --dtype float32"):
            _whole_job(model_type, tmp_path)
        return
    _whole_job(model_type, tmp_path)


ARITHMETICS: dict[str, Callable[[], Any]] = {
    "plain": nullcontext,
    "hostile": hostile_arithmetic,
    "restless": lambda: hostile_arithmetic(restless=True),
}


@pytest.fixture(params=["plain", "hostile", pytest.param("restless", marks=pytest.mark.slow)])
def _arithmetic(request: pytest.FixtureRequest) -> Iterator[None]:
    with ARITHMETICS[request.param]():
        yield


def _swapped(folder: Path) -> None:
    """Two tensors of one shape change their places."""
    names = [f"model.layers.{block}.self_attn.q_proj.weight" for block in (1, 2)]
    _rewrite(folder, lambda t: {names[0]: t[names[1]], names[1]: t[names[0]]})


def _off_by_a_hundredth(folder: Path) -> None:
    """The gain of one norm is 1% too large."""
    name = "model.layers.2.input_layernorm.weight"
    _rewrite(folder, lambda t: {name: (t[name].float() * 1.01).to(t[name].dtype)})


def _rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors |= {name: t.clone() for name, t in change(tensors).items()}
    save_file(tensors, file, {"format": "pt"})


def _configured(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config |= {k: f(config) if callable(f) else f for k, f in fields.items()}
        (folder / "config.json").write_text(json.dumps(config))

    return change


WRONG: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a tensor swapped": ("llama", _swapped),
    "a gain off by 1%": ("llama", _off_by_a_hundredth),
    "a scale off by 1%": (
        "cohere",
        _configured(logit_scale=lambda config: config["logit_scale"] * 1.01),
    ),
    "a wrong layer type": (
        "gemma3_text",
        _configured(layer_types=["full_attention"] + ["sliding_attention"] * 3),
    ),
}
"""What is done to a checkpoint that was cut rightly, by its type."""


@pytest.mark.usefixtures("_arithmetic")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("fault", WRONG)
def test_a_checkpoint_that_is_wrong_is_refused(fault: str, dtype: str, tmp_path: Path) -> None:
    model_type, plant = WRONG[fault]
    save_tiny(tmp_path / "whole", model_type, dtype=torch.bfloat16, sliding_window=4)
    apply(tmp_path / "whole", (1, 4), tmp_path / "cut")
    verify_checkpoint(tmp_path / "whole", tmp_path / "cut", (1, 4), dtype=dtype, device="cpu")
    plant(tmp_path / "cut")
    with pytest.raises(ParityError):
        verify_checkpoint(tmp_path / "whole", tmp_path / "cut", (1, 4), dtype=dtype, device="cpu")


class _Exchanging(nn.Module):
    """A language model whose blocks may be told, unseen, what another one added."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 16)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(6))
        self.head = nn.Linear(16, 64)
        self.share = share

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Any:
        states = self.embed(input_ids)
        added = torch.zeros_like(states)
        for block in self.layers:
            before = states
            states = before + block(before + self.share * added)
            added = states - before

        class Output:
            logits = self.head(states)

        return Output()


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)

    def forward(self, states: Tensor) -> Tensor:
        return states + self.inner(states)


@pytest.mark.usefixtures("_arithmetic")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("share", [1.0, 0.01])
def test_a_block_that_reads_what_another_added_is_refused(share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = _Exchanging(share).eval().to(dtype)
    with pytest.raises(ModelError, match=r"exchange what no call of them shows"):
        find_anatomy(model)


class _Mixing(_Residual):
    """A block that mixes the windows of its call: what shares the call changes the output."""

    def forward(self, states: Tensor) -> Tensor:
        return states + self.inner(states - 0.01 * states.mean(0, keepdim=True))


class _Plain(_Exchanging):
    def __init__(self, block: type[nn.Module]) -> None:
        super().__init__(0.0)
        self.layers = nn.ModuleList(block() for _ in range(6))

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Any:
        states = self.embed(input_ids)
        for block in self.layers:
            states = block(states)

        class Output:
            logits = self.head(states)

        return Output()


@pytest.mark.usefixtures("_arithmetic")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_block_that_mixes_the_states_of_a_call_is_refused(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    assert find_anatomy(_Plain(_Residual).eval().to(dtype)).proof is not None
    with pytest.raises(ModelError, match="share a call"):
        find_anatomy(_Plain(_Mixing).eval().to(dtype))


def test_as_many_types_and_faults_as_are_told() -> None:
    assert len(FAST) == len(set(FAST)) == 46
    assert set(WHOLE_JOB) < set(FAST)
    assert len(WRONG) + 2 == 6
