"""Two models that do not fit a GPU at once take turns on it; elsewhere nothing is moved."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from depthprune.models import turns
from depthprune.models.turns import put_on, taking_turns


class _Placed(nn.Module):
    """A model on a device that this machine need not have."""

    def __init__(self, device: str, log: list[str]) -> None:
        super().__init__()
        self.place = torch.device(device)
        self.log = log

    def to(self, device: str | torch.device) -> _Placed:  # type: ignore[override]
        self.place = torch.device(device)
        self.log.append(f"{id(self)} to {self.place}")
        return self


@pytest.fixture(autouse=True)
def _places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_device", lambda module: module.place)
    monkeypatch.setattr(turns, "_bytes", lambda _: 12 << 30)


def test_a_model_goes_to_a_gpu_that_has_room_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, where in ((8 << 30, "cpu"), (12 << 30, "cpu"), (14 << 30, "cuda:0")):
        monkeypatch.setattr(turns, "available_memory", lambda _, free=free: free)
        module = _Placed("cpu", [])
        put_on(module, "cuda:0")
        assert module.place == torch.device(where)


def test_the_one_that_does_not_compute_waits_in_host_memory() -> None:
    log: list[str] = []
    original, written = _Placed("cuda:0", log), _Placed("cpu", log)
    with taking_turns(written, original):
        assert written.place == torch.device("cuda:0")
        assert original.place == torch.device("cpu")
    assert written.place == torch.device("cpu")
    assert original.place == torch.device("cuda:0")
    # Never both at once.
    names = [str(id(original)), str(id(written)), str(id(written)), str(id(original))]
    assert [line.split()[0] for line in log] == names


def test_it_comes_back_after_a_failure() -> None:
    original, written = _Placed("cuda:0", []), _Placed("cpu", [])
    with pytest.raises(KeyError), taking_turns(written, original):
        raise KeyError
    assert original.place == torch.device("cuda:0")


@pytest.mark.parametrize("places", [("cuda:0", "cuda:0"), ("cpu", "cpu"), ("cpu", "mps")])
def test_nothing_is_moved_where_both_are_in_their_place(places: tuple[str, str]) -> None:
    log: list[str] = []
    written, original = _Placed(places[0], log), _Placed(places[1], log)
    with taking_turns(written, original), taking_turns(original, original):
        pass
    assert log == []
