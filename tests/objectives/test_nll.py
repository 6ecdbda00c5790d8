"""NLL is −log softmax at the target, however the rows are chunked."""

from __future__ import annotations

import pytest
import torch

from depthprune.objectives import NLL, OBJECTIVES
from depthprune.objectives import rows as rows_module


def _by_definition(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    wide = logits.double()
    return wide.exp().sum(-1).log() - wide[torch.arange(len(targets)), targets]


def _random(dtype: torch.dtype, rows: int = 37, vocabulary: int = 101) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(rows, vocabulary, generator=generator)
    return logits.to(dtype), torch.randint(vocabulary, (rows,), generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_losses_are_those_of_the_definition(dtype: torch.dtype) -> None:
    logits, targets = _random(dtype)
    losses = NLL().token_losses(logits, targets, None)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(
        losses.double(), _by_definition(logits, targets), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("rows", [1, 2, 36, 37, 1000])
def test_losses_do_not_depend_on_how_rows_are_chunked(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, targets = _random(torch.float32)
    whole = NLL().token_losses(logits, targets, None)
    monkeypatch.setattr(rows_module, "_ROWS_BYTES", rows * 4 * logits.shape[-1])
    assert torch.equal(NLL().token_losses(logits, targets, None), whole)


def test_a_vocabulary_wider_than_a_chunk_is_taken_row_by_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows_module, "_ROWS_BYTES", 8)
    logits, targets = _random(torch.float32)
    losses = NLL().token_losses(logits, targets, None)
    torch.testing.assert_close(
        losses.double(), _by_definition(logits, targets), rtol=1e-5, atol=1e-5
    )


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[1e4, 0.0], [-1e4, 0.0]])
    losses = NLL().token_losses(logits, torch.tensor([0, 0]), None)
    assert losses.tolist() == [0.0, 1e4]


def test_nan_logits_give_nan_and_not_a_number_that_looks_right() -> None:
    logits = torch.tensor([[0.0, torch.nan], [0.0, 0.0]])
    assert NLL().token_losses(logits, torch.tensor([0, 0]), None).isnan().tolist() == [True, False]


def test_nll_is_found_by_its_name_and_has_a_perplexity() -> None:
    objective = OBJECTIVES.get("nll")()
    assert (objective.name, objective.has_perplexity) == ("nll", True)
    assert "exp of it is perplexity" in objective.summary
