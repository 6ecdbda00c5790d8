"""Encoder-decoders as they are saved whole: the decoder is cut, the encoder left as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from depthprune.errors import DepthpruneError
from depthprune.pruning.apply import apply
from tiny import draw_weights, tiny_config

BLOCKS, REMOVED = 6, (0, 3, 4)

WHOLE = {
    "bart": "BartForConditionalGeneration",
    "bigbird_pegasus": "BigBirdPegasusForConditionalGeneration",
    "blenderbot": "BlenderbotForConditionalGeneration",
    "blenderbot-small": "BlenderbotSmallForConditionalGeneration",
    "marian": "MarianMTModel",
    "mbart": "MBartForConditionalGeneration",
    "mvp": "MvpForConditionalGeneration",
    "pegasus": "PegasusForConditionalGeneration",
    "plbart": "PLBartForConditionalGeneration",
    "whisper": "WhisperForConditionalGeneration",
}

pytestmark = pytest.mark.filterwarnings("ignore")


def _save(folder: Path, model_type: str, encoder: int) -> Any:
    config = tiny_config(
        model_type,
        BLOCKS,
        encoder_layers=encoder,
        encoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_start_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = draw_weights(getattr(transformers, WHOLE[model_type])(config).eval())
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder, dtype=torch.float32).eval()


def _logits(model: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    said = torch.randint(3, 300, (2, 12), generator=generator)
    if model.config.model_type == "whisper":
        length = 2 * model.config.max_source_positions
        sound = torch.randn(2, model.config.num_mel_bins, length, generator=generator)
        given = {"input_features": sound}
    else:
        given = {"input_ids": torch.randint(3, 300, (2, 20), generator=generator)}
    with torch.no_grad():
        return model(decoder_input_ids=said, use_cache=False, **given).logits


def _skip(model: Any, removed: tuple[int, ...]) -> None:
    layers = model.get_decoder().layers
    kinds: list[Any] = []
    hook = layers[0].register_forward_hook(lambda _m, _a, out: kinds.append(out))
    _logits(model)
    hook.remove()
    rest = (None,) * (len(kinds[0]) - 1) if isinstance(kinds[0], tuple) else None
    for block in removed:
        layers[block].forward = lambda states, *_, **__: states if rest is None else (states, *rest)


@pytest.mark.parametrize("encoder", [3, BLOCKS])
@pytest.mark.parametrize("model_type", WHOLE)
def test_the_decoder_is_cut_and_the_encoder_passes_through(
    model_type: str, encoder: int, tmp_path: Path
) -> None:
    whole = _save(tmp_path / "whole", model_type, encoder)
    apply(tmp_path / "whole", REMOVED, tmp_path / "cut")
    cut, info = type(whole).from_pretrained(
        tmp_path / "cut", dtype=torch.float32, output_loading_info=True
    )
    assert {kind: keys for kind, keys in info.items() if keys} == {}
    dense = _logits(whole)
    _skip(whole, REMOVED)
    expected = _logits(whole)
    scale = float(expected.abs().max())
    assert float((_logits(cut.eval()) - expected).abs().max()) <= 1e-5 * scale
    assert float((dense - expected).abs().max()) > 1e-3 * scale
    before = load_file(tmp_path / "whole" / "model.safetensors")
    after = load_file(tmp_path / "cut" / "model.safetensors")
    kept = [name for name in before if ".decoder.layers." not in name]
    assert any(".encoder.layers." in name for name in kept)
    assert all(torch.equal(before[name], after[name]) for name in kept)
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert (config["encoder_layers"], config["decoder_layers"]) == (encoder, 3)


@pytest.mark.parametrize("model_type", ["t5", "mt5", "vision-encoder-decoder"])
def test_one_whose_decoder_is_no_causal_model_is_refused_by_name(
    model_type: str, tmp_path: Path
) -> None:
    folder = tmp_path / "whole"
    if model_type == "vision-encoder-decoder":
        config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
            tiny_config("vit", 2), tiny_config("trocr")
        )
        model: Any = transformers.VisionEncoderDecoderModel(config)
    else:
        config = tiny_config(model_type, num_layers=6, num_decoder_layers=6, d_kv=8, d_ff=16)
        model = transformers.AutoModelForSeq2SeqLM.from_config(config)
    model.save_pretrained(folder)
    with pytest.raises(DepthpruneError, match=model_type):
        apply(folder, "1", tmp_path / "cut")
    assert not (tmp_path / "cut").exists()
