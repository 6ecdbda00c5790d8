"""A device that is not there: `mps`, computed by the processor, with an accelerator's rules.

Tensors say that they are on `mps` and hold a processor's. What a real one refuses is refused:
tensors of two devices in one operation (but for a processor's scalars), float64, and memory of the
device as numpy. So a path that puts a tensor on the wrong device fails here, on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

HERE = torch.device("cpu")
THERE = torch.device("mps:0")

_WIDE = (torch.float64, torch.complex128)
_NO_FLOAT64 = (
    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
    "Please use float32 instead."
)

_COPIES = ("aten::_to_copy", "aten::copy_", "aten::to")
_MIXED = (*_COPIES, "aten::index", "aten::index_put_")


class OnMps(Tensor):
    """A tensor that says it is on the device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnMps:
        if held.dtype in _WIDE:
            raise TypeError(_NO_FLOAT64)
        # A view of a usual tensor is one too, also where none is made otherwise.
        with torch.inference_mode(False):
            made = Tensor._make_wrapper_subclass(
                cls,
                held.size(),
                strides=held.stride(),
                storage_offset=held.storage_offset(),
                dtype=held.dtype,
                layout=held.layout,
                device="meta",  # of any other autograd asks for a driver
            )
        made.held = held
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return THERE

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: OnMps) -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.held = value.held

    is_meta = property(lambda _: False)
    is_mps = property(lambda _: True)

    def __repr__(self, **_: Any) -> str:
        return f"OnMps({self.held!r})"

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert mps:0 device type tensor to numpy.")

    __array__ = numpy

    def tolist(self) -> Any:
        return self.held.tolist()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def __deepcopy__(self, memo: Any) -> Tensor:
        made = self.detach().clone().requires_grad_(self.requires_grad)
        made._is_param = isinstance(self, torch.nn.Parameter)  # type: ignore[attr-defined]
        return made

    def __reduce_ex__(self, _: Any) -> Any:
        return OnMps, (self.held,)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Numbered(TorchFunctionMode):
    """What names the device without its number is given it: torch would look for its driver."""

    meta = 0
    """Calls under way that ask for the device `meta` and mean it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = tuple(map(_numbered, args))
        kwargs = {name: _numbered(each) for name, each in (kwargs or {}).items()}
        if func is Tensor.__setitem__ and isinstance(args[0], OnMps):
            return func(*tree_map_only(OnMps, _held, args))
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == THERE:
            return func(*args, **kwargs | {"device": HERE}).to(THERE)
        meant = any(str(each) == "meta" for each in (*args, *kwargs.values()) if _names(each))
        _Numbered.meta += meant
        try:
            return func(*args, **kwargs)
        finally:
            _Numbered.meta -= meant


def _names(each: Any) -> bool:
    return isinstance(each, (str, torch.device))


def _numbered(each: Any) -> Any:
    return THERE if _names(each) and str(each) == "mps" else each


class _Pretend(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
    there = any(isinstance(each, OnMps) for each in tensors)
    asked = next((d for d in (*args, *kwargs.values()) if isinstance(d, torch.device)), None)
    to = asked.type if asked is not None else ""
    if to == "meta" and (there or not _Numbered.meta):
        to = "mps"  # an operation that makes a tensor beside another
    if not there and to != "mps":
        return func(*args, **kwargs)
    copies = func._schema.name in _COPIES
    if func._schema.name not in _MIXED:
        _refuse_mixture(func, tensors)
    if to != "cpu" and any(each in _WIDE for each in (*args, *kwargs.values()) if _is_dtype(each)):
        raise TypeError(f"{_NO_FLOAT64} ({func})")
    held_args, held_kwargs = (
        tree_map_only(torch.device, lambda _: HERE, tree_map_only(OnMps, _held, each))
        for each in (args, kwargs)
    )
    if "pin_memory" in held_kwargs:
        held_kwargs["pin_memory"] = False
    answer = func(*held_args, **held_kwargs)
    if func._schema.name == "aten::copy_":
        return args[0]
    if to == "cpu":
        return answer.clone() if copies else answer
    wrapped = tree_map_only(Tensor, OnMps, answer)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if there else wrapped


def _held(tensor: OnMps) -> Tensor:
    return tensor.held


def _is_dtype(each: Any) -> bool:
    return isinstance(each, torch.dtype)


def _refuse_mixture(func: Any, tensors: list[Tensor]) -> None:
    for each in tensors:
        if not isinstance(each, OnMps) and each.dim():
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, "
                f"mps:0 and cpu! ({func}: {[(type(t).__name__, tuple(t.shape)) for t in tensors]})"
            )


class _Event:
    """Of a device that has done everything at once."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, *_: Any) -> None:
        pass

    synchronize = wait = record

    def query(self) -> bool:
        return True


@contextmanager
def pretend_mps() -> Iterator[None]:
    """Inside the context there is a device `mps`."""
    memory = {
        "current_allocated_memory": lambda: 0,
        "recommended_max_memory": lambda: 8 << 30,
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
    }
    with (
        patch.object(torch.backends.mps, "is_available", lambda: True),
        patch.multiple(torch.mps, **memory),
        patch.object(torch, "Event", _Event, create=True),
        _Numbered(),
        _Pretend(),
    ):
        yield
