"""What a device can do at most, as measured on it: floors of kernels are reckoned with this, not with a data sheet."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ouro.kernels.launch import Floor

_SIDE = 8192
_ROUNDS = 512
_BLOCK = 1024


def probes(device: torch.device) -> dict[str, tuple[float, Callable[[], object]]]:
    """Per kind of work (the fields of `Floor`): how much of it one call does, and the call.

    Memory is copied by torch, products are torch's (cuBLAS), exponentials a loop of our own.
    """
    from ouro.kernels.exponentials import exponential_loop

    source = torch.randn(2**28, device=device)
    target = torch.empty_like(source)
    half = torch.randn(_SIDE, _SIDE, dtype=torch.float16, device=device)
    byte = torch.randint(-127, 128, (_SIDE, _SIDE), dtype=torch.int8, device=device)
    programs = 64 * torch.cuda.get_device_properties(device).multi_processor_count
    x = torch.rand(programs * _BLOCK, device=device)
    y = torch.empty_like(x)
    return {
        "bytes": (2.0 * source.numel() * source.element_size(), lambda: target.copy_(source)),
        "exps": (
            float(x.numel() * _ROUNDS),
            lambda: exponential_loop[(programs,)](x, y, ROUNDS=_ROUNDS, BLOCK=_BLOCK),
        ),
        "half_ops": (2.0 * _SIDE**3, lambda: half @ half.T),
        "int8_ops": (2.0 * _SIDE**3, lambda: torch._int_mm(byte, byte.T)),
    }


def least_ms(floor: Floor, per_second: dict[str, float]) -> tuple[float, str]:
    """(milliseconds that the work takes at least, which kind of it takes them)."""
    times = {kind: 1e3 * getattr(floor, kind) / rate for kind, rate in per_second.items()}
    bound = max(times, key=times.__getitem__)
    return times[bound], bound
