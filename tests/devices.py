"""A device that is not there: tensors that are elsewhere, compute on the CPU, and refuse tensors left behind on the CPU.

Inside `elsewhere()` what is made on or moved to the device it gives is an `Away`. Its numbers are in CPU memory, so whole
jobs run and their results can be compared bit for bit; but `x.device` is another device, so code takes the paths that it
takes on a GPU, and where a tensor of the CPU comes beside it, `LeftBehind` is raised, as CUDA would. The device is called
"meta", which every build of torch has; real meta tensors cannot be had meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

_DEVICE = torch.device("meta")
_aten = torch.ops.aten
_TAKE_NUMBERS = {
    _aten.where.self, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default,
    _aten.masked_fill.Tensor, _aten.masked_fill_.Tensor, _aten.fill_.Tensor,
}  # fmt: skip
"""What takes one number that is on the CPU, besides operations element by element."""
_COMPILED = (
    "ouro.scan.contract", "ouro.scan.transition", "ouro.gen.losses", "ouro.quant.outliers",
    "ouro.quant.packed.modules",
)  # fmt: skip
"""Modules that choose between compiled loops and definitions."""


class LeftBehind(RuntimeError):
    """An operation met tensors of both devices, or would draw random numbers on the device."""


class Away(Tensor):
    """A tensor elsewhere; `inner` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Away:
        away = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=_DEVICE,
        )  # fmt: skip
        away.inner = inner
        return away

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"Away({self.inner})"

    # torch does the next three without dispatching them

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, new: Away) -> None:
        Tensor.data.__set__(self, new)  # type: ignore[attr-defined]
        self.inner = new.inner

    @property
    def is_meta(self) -> bool:
        return False

    def tolist(self) -> list[Any]:
        return self.inner.tolist()


class _Mode(TorchDispatchMode):
    """Sees what makes tensors on the device out of nothing, or out of tensors of the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """The device that is not there, while it lasts."""
    # these two make tensors on "meta" without dispatching
    makers = (torch.tensor, torch.as_tensor)
    with ExitStack() as stack:
        for make in makers:
            stack.enter_context(patch.object(torch, make.__name__, _by_way_of_the_cpu(make)))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_Mode())
        yield _DEVICE


@contextmanager
def by_definition() -> Iterator[None]:
    """While it lasts tensors of the CPU go by the definitions too, so that `elsewhere` has to give the same bits."""
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(patch.object(import_module("ouro.scan.dispatch"), "BACKENDS", ("reference",)))
        for name in _COMPILED:
            stack.enter_context(patch.object(import_module(name), "compiles", lambda x: False))
        yield


def both(run: Callable[[torch.device], Any]) -> tuple[Any, Any]:
    """What `run` gives on the CPU, by the definitions, and what it gives elsewhere; it takes the device."""
    with by_definition():
        here = run(torch.device("cpu"))
    with elsewhere() as device:
        return here, run(device)


def assert_same(here: Any, there: Any, name: str = "result") -> None:
    """Asserts that two results are equal bit for bit, and that all tensors in them are on the CPU."""
    if isinstance(here, Tensor):
        assert type(there) is Tensor, f"{name} is a {type(there).__name__}, expected a tensor of the CPU"
        assert torch.equal(here, there), f"{name} differs by up to {(here.double() - there.double()).abs().max():.3e}"
    elif is_dataclass(here):
        assert type(here) is type(there), name
        for field in fields(here):
            assert_same(getattr(here, field.name), getattr(there, field.name), f"{name}.{field.name}")
    elif isinstance(here, Mapping):
        assert list(here) == list(there), name
        for key in here:
            assert_same(here[key], there[key], f"{name}[{key!r}]")
    elif isinstance(here, (list, tuple)):
        assert len(here) == len(there), name
        for place, (one, other) in enumerate(zip(here, there, strict=True)):
            assert_same(one, other, f"{name}[{place}]")
    else:
        assert here == there, f"{name} is {there!r}, expected {here!r}"


def _by_way_of_the_cpu(make: Any) -> Any:
    def made(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        return make(data, **options) if device is None else make(data, **options).to(device)

    return made


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Computes on the CPU; the result is elsewhere if it was asked for there, or if any operand is."""
    target = kwargs.get("device")
    tensors = list(_tensors((*args, *kwargs.values())))
    away = [x for x in tensors if isinstance(x, Away)]
    goes = bool(away) if target is None else torch.device(target).type == _DEVICE.type
    if not away and not goes:
        return func(*args, **kwargs)
    if func is _aten.copy_.default:
        goes = isinstance(args[0], Away)
    elif away and func is not _aten._to_copy.default:
        _refuse_others(func, args, tensors)
    if goes and torch.Tag.nondeterministic_seeded in func.tags:
        raise LeftBehind(f"{func} draws on the device; draw on the CPU and move what was drawn")
    inner = {name: _inner(x) for name, x in kwargs.items()}
    if target is not None:
        inner["device"] = torch.device("cpu")
    results = func(*map(_inner, args), **inner)
    # what was changed in place is the same object as before
    return _outer(results, {id(x.inner): x for x in away}) if goes else results


def _refuse_others(func: Any, args: Sequence[Any], tensors: Sequence[Tensor]) -> None:
    behind = [x for x in tensors if not isinstance(x, Away)]
    if not behind:
        return
    takes_numbers = torch.Tag.pointwise in func.tags or func in _TAKE_NUMBERS
    infos = [argument.alias_info for argument in func._schema.arguments]
    written = {id(x) for x, info in zip(args, infos, strict=False) if info is not None and info.is_write}
    for x in behind:
        if not takes_numbers or x.dim() or id(x) in written:
            raise LeftBehind(f"{func} met tensors of both devices; on the CPU is one of {tuple(x.shape)}")


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _inner(value: Any) -> Any:
    if isinstance(value, Away):
        return value.inner
    return type(value)(map(_inner, value)) if type(value) in (list, tuple) else value


def _outer(value: Any, known: Mapping[int, Away]) -> Any:
    if isinstance(value, (list, tuple)):
        return (
            [_outer(one, known) for one in value]
            if isinstance(value, list)
            else tuple(_outer(one, known) for one in value)
        )
    if not isinstance(value, Tensor):
        return value
    return known[id(value)] if id(value) in known else Away(value)
