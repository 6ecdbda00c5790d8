"""Settings and fixtures that every test shares."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hostile import HostileArithmetic

os.environ["HF_HUB_OFFLINE"] = "1"

# No test asserts a time, and a busy machine is no failure.
hypothesis.settings.register_profile("depthprune", deadline=None)
hypothesis.settings.load_profile("depthprune")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes a quarter of an hour by itself is begun first, or it ends alone."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests keep away from the user's memo."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    # Nor do they fill the disk with what is unpacked once.
    os.environ["DEPTHPRUNE_UNPACKED"] = "0"


@pytest.fixture(autouse=True)
def _empty_memo(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds what another one computed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny matrices gain nothing from threads, and on a busy machine wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _long_texts_are_tokenised_once() -> None:
    """Hundreds of tests draw from the same megabytes, and tokenising them is most of some."""
    from depthprune.calibration.pieces import Encoder

    plain, known = Encoder.many, {}

    def many(self: Encoder, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None or sum(map(len, texts)) < 100_000:
            return plain(self, texts)
        key = hash((type(self.tokenizer), backend.to_str(), *texts))
        if key not in known:
            known[key] = plain(self, texts)
        return list(known[key])

    Encoder.many = many  # type: ignore[method-assign]


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny llama of six blocks with a tokenizer; leave it as it is."""
    from tiny import save_tiny

    return save_tiny(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture
def no_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """What rounding does is not measured, which takes passes of its own before any loss is kept."""
    from depthprune.evaluator import evaluator

    monkeypatch.setattr(evaluator, "measure_rounding", lambda *_: None)


@pytest.fixture
def hostile() -> Iterator[HostileArithmetic]:
    """For the whole test, products round by the number of rows in their call (see `hostile`)."""
    from hostile import hostile_arithmetic

    with hostile_arithmetic() as mode:
        yield mode


@pytest.fixture
def restless() -> Iterator[HostileArithmetic]:
    """For the whole test, products round otherwise at each call (see `hostile`)."""
    from hostile import hostile_arithmetic

    with hostile_arithmetic(restless=True) as mode:
        yield mode
