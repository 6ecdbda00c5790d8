"""Parameters as what is trained or refitted needs them: who has them, and which take gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def holders(module: nn.Module) -> Counter[int]:
    """How many modules have each parameter as theirs, by the parameter's `id`."""
    return Counter(id(p) for _, p in module.named_parameters(remove_duplicate=False))


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside the context no parameter takes a gradient; then each does that did before."""
    flags = [(p, p.requires_grad) for p in module.parameters()]
    try:
        module.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
