"""The loss in chunks is the loss over everything at once, forward and back."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from depthprune.recovery.lora import divergence as module
from depthprune.recovery.lora.divergence import divergence, losses
from mended import loaded


def whole(head, states, dense, targets, nll):
    ours = head.with_gradient(states[None])[0].log_softmax(-1)
    theirs = head.with_gradient(dense[None])[0].log_softmax(-1)
    kl = kl_div(ours, theirs, log_target=True, reduction="batchmean")
    return (1 - nll) * kl + nll * cross_entropy(ours, targets), kl, cross_entropy(ours, targets)


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
@pytest.mark.parametrize("nll", [0.0, 0.3, 1.0])
def test_chunks_give_the_loss_and_gradient_of_the_whole(
    model_type: str, nll: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = loaded(model_type).anatomy.head
    generator = torch.Generator().manual_seed(3)
    states, dense = torch.randn(2, 11, 32, generator=generator)
    targets = torch.randint(0, 300, (11,), generator=generator)
    monkeypatch.setattr(module, "_rows", lambda head, states: 4)
    found, expected = (states.clone().requires_grad_() for _ in range(2))
    loss = divergence(head, found, dense, targets, nll)
    (2 * loss).backward()
    reference, kl, own = whole(head, expected, dense, targets, nll)
    (2 * reference).backward()
    torch.testing.assert_close(loss, reference.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-6)
    assert losses(head, states, dense, targets) == pytest.approx((kl.item(), own.item()), rel=1e-5)


def test_a_token_that_the_teacher_never_gives_costs_nothing() -> None:
    ours = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    theirs = torch.log(torch.tensor([[0.5, 0.5, 0.0]]))
    kl, own = module._sums(ours, theirs, torch.tensor([1])).tolist()
    assert kl == pytest.approx(0.5 * torch.log(torch.tensor(2.0)).item())
    assert own == pytest.approx(torch.log(torch.tensor(4.0)).item())


def test_no_more_logits_are_held_than_the_budget_has() -> None:
    model = loaded()
    seen = []
    hook = model.module.lm_head.register_forward_hook(
        lambda module, args, output: seen.append(output.numel())
    )
    states, targets = torch.randn(3000, 32), torch.zeros(3000, dtype=torch.long)
    divergence(model.anatomy.head, states.requires_grad_(), states.detach(), targets, 0.5)
    hook.remove()
    assert len(seen) == 6
    assert max(seen) == 1024 * model.module.config.vocab_size
