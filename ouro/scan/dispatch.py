"""One public scan; the backend is decided here and nowhere else."""

from __future__ import annotations

import logging
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec

import torch

from ouro.scan import op, reference, triton
from ouro.scan.devices import compiles
from ouro.types import Companding, PatchWindow, ScanInputs, ScanOutput, ScanRounding, StateQuantizer

_LOG = logging.getLogger(__name__)

BACKENDS = ("cpu", "triton", "mamba_ssm", "reference")
""""auto" takes the first of these that serves the request."""


class BackendError(ValueError):
    """A backend was asked for something it cannot do here."""


def refusal(
    backend: str,
    inputs: ScanInputs,
    *,
    keep_states: bool = False,
    rounding: ScanRounding | None = None,
    window: PatchWindow | None = None,
) -> str | None:
    """Why `backend` cannot serve this request, or None if it can."""
    needs_grad = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (inputs.u, inputs.delta, inputs.A, inputs.B, inputs.C, inputs.D)
    )
    if backend == "reference":
        return None
    if backend == "cpu":
        if not compiles(inputs.u):
            return f"it runs on the CPU, the inputs are on {inputs.u.device}"
        if keep_states and needs_grad:
            return "the states it returns carry no gradient"
        return None
    if backend == "triton":
        return triton.refusal(inputs, keep_states, rounding, window, needs_grad)
    if backend == "mamba_ssm":
        if inputs.u.device.type != "cuda":
            return f"it runs on CUDA devices, the inputs are on {inputs.u.device}"
        if keep_states or rounding is not None or window is not None:
            return "it returns y only: no states, no rounding, no window"
        if find_spec("selective_scan_cuda") is None:
            return "its CUDA extension selective_scan_cuda is not installed"
        return None
    raise BackendError(f"unknown scan backend {backend!r}; known: auto, {', '.join(BACKENDS)}")


def backends() -> list[tuple[str, bool, str]]:
    """(name, usable on this machine, why or why not) of every backend."""
    cuda = torch.cuda.is_available()
    no_triton = triton.unavailable()
    mamba = find_spec("selective_scan_cuda") is not None
    return [
        ("cpu", True, "compiled with numba, forward and backward"),
        ("triton", no_triton is None, no_triton or "own kernel for CUDA devices, forward and backward"),
        ("mamba_ssm", cuda and mamba, "official CUDA kernel" if cuda and mamba else
         "no CUDA device" if not cuda else "its extension selective_scan_cuda is not installed"),
        ("reference", True, "loop over tokens, the definition"),
    ]  # fmt: skip


def check(inputs: ScanInputs, window: PatchWindow | None = None, rounding: ScanRounding | None = None) -> None:
    """Verifies shapes and rules before any backend sees them.

    Raises:
        ValueError: an operand or a rule does not fit the others; the message has both.
    """
    u = inputs.u
    if u.dim() != 3 or 0 in u.shape:
        raise ValueError(f"u is {tuple(u.shape)}, expected a non-empty (b, e, l)")
    if not u.is_floating_point():
        # the result is of u's type, and whole numbers would be cut off
        raise ValueError(f"u is {str(u.dtype).removeprefix('torch.')}, expected floating point; give u.float()")
    batch, channels, L = u.shape
    if inputs.delta.shape != u.shape:
        raise ValueError(f"delta is {tuple(inputs.delta.shape)}, expected (b, e, l) = {tuple(u.shape)}; transpose?")
    if inputs.A.dim() != 2 or inputs.A.shape[0] != channels:
        raise ValueError(f"A is {tuple(inputs.A.shape)}, expected (e, n) with e = {channels}")
    N = inputs.A.shape[1]
    for name, matrix in (("B", inputs.B), ("C", inputs.C)):
        grouped = matrix.dim() == 4 and channels % matrix.shape[1] == 0
        plain = (batch, *((matrix.shape[1],) if grouped else ()), N, L)
        if matrix.dim() not in (3, 4) or tuple(matrix.shape) != plain:
            raise ValueError(
                f"{name} is {tuple(matrix.shape)}, expected (b, n, l) = {(batch, N, L)} or (b, g, n, l) "
                f"with g dividing {channels}; transpose?"
            )
    if inputs.B.shape != inputs.C.shape:
        raise ValueError(f"B is {tuple(inputs.B.shape)} but C is {tuple(inputs.C.shape)}; both need the same groups")
    if inputs.D is not None and tuple(inputs.D.shape) != (channels,):
        raise ValueError(f"D is {tuple(inputs.D.shape)}, expected (e,) = ({channels},)")
    if window is not None:
        if window.size < 1 or window.size % 2 == 0:
            raise ValueError(f"window is {window.size}, expected an odd number from 1 up")
        if tuple(window.weights.shape) != (batch, L):
            raise ValueError(f"window weights are {tuple(window.weights.shape)}, expected (b, l) = {(batch, L)}")
    if rounding is not None:
        if rounding.h is not None:
            _check_state_quantizer(rounding.h, channels, L, N)
        for name, rule in (("A_bar", rounding.A_bar), ("B_bar", rounding.B_bar)):
            if rule is not None:
                _check_companding(name, rule, N)


def _check_state_quantizer(rule: StateQuantizer, channels: int, L: int, N: int) -> None:
    _check_bits("h", rule.bits)
    if tuple(rule.step.shape) not in ((1,), (L,)):
        raise ValueError(f"step of h is {tuple(rule.step.shape)}, expected (1,) or (l,) = ({L},)")
    for name, factor, axis, size in (("channel", rule.channel, "e", channels), ("state", rule.state, "n", N)):
        if factor is not None and tuple(factor.shape) != (size,):
            raise ValueError(f"{name} of h is {tuple(factor.shape)}, expected ({axis},) = ({size},)")


def _check_companding(name: str, rule: Companding, N: int) -> None:
    _check_bits(name, rule.bits)
    if rule.power not in (1, 2, 3, 4):
        raise ValueError(f"power of {name} is {rule.power}, expected 1 to 4")
    for end, bound in (("low", rule.low), ("high", rule.high)):
        if tuple(bound.shape) not in ((1,), (N,)):
            raise ValueError(f"{end} of {name} is {tuple(bound.shape)}, expected (1,) or (n,) = ({N},)")


def _check_bits(name: str, bits: int) -> None:
    if not 2 <= bits <= 16:
        raise ValueError(f"{name} has {bits} bits, expected 2 to 16; no rule leaves it in floating point")


def selective_scan(
    inputs: ScanInputs,
    *,
    backend: str = "auto",
    keep_states: bool = False,
    rounding: ScanRounding | None = None,
    window: PatchWindow | None = None,
) -> ScanOutput:
    """Runs h_t = A_bar_t h_{t-1} + B_bar_t u_t, y_t = C_t h_t + D u_t.

    Source: Gu & Dao 2023, eq. 2 and alg. 2; delta is used as given (after softplus and bias). While torch exports or
    compiles a model a plain scan on the CPU is one operator, see `ouro.scan.op`.

    Args:
        backend: "auto" or one of `BACKENDS`.
        keep_states: also return every h; costs b e l n floats.
        rounding: rounds the stored state, A_bar or B_bar at every step, inside the recurrence.
        window: also return y_p = C h_p over this neighbourhood, in raster order.

    Raises:
        BackendError: the named backend cannot serve this request; the message says why.
        ValueError: operands whose shapes do not fit, or a rule of rounding that they do not allow.
    """
    if torch.compiler.is_compiling() and _is_plain(inputs, backend, keep_states, rounding, window):
        return ScanOutput(op.traced(inputs))
    check(inputs, window, rounding)
    names = BACKENDS if backend == "auto" else (backend,)
    refused: dict[str, str] = {}
    for name in names:
        why = refusal(name, inputs, keep_states=keep_states, rounding=rounding, window=window)
        if why is None:
            if name == "reference" and refused and not compiles(inputs.u):
                what = "rounding inside the recurrence" if rounding is not None else "a scan"
                _warn_slow(what, inputs.u.device.type, refused["triton"], refused["mamba_ssm"])
            return _backend(name)(inputs, keep_states, rounding, window)
        refused[name] = why
    raise BackendError(f"scan backend {backend!r} cannot serve this request: {why}")


def _is_plain(
    inputs: ScanInputs, backend: str, keep_states: bool, rounding: ScanRounding | None, window: PatchWindow | None
) -> bool:
    """Whether it is what the one operator does: y alone, on the CPU."""
    alone = not keep_states and rounding is None and window is None
    return alone and backend in ("auto", "cpu") and inputs.u.device.type == "cpu"


@lru_cache(maxsize=64)
def _warn_slow(what: str, device: str, triton: str, mamba_ssm: str) -> None:
    """Logs, once for each kind of request, that a device runs a loop over tokens in place of a kernel."""
    _LOG.warning(
        "%s runs by the reference on %s, token after token; triton: %s; mamba_ssm: %s", what, device, triton, mamba_ssm
    )


def _backend(name: str):
    if name == "reference":
        return reference.scan
    # numba and mamba-ssm are heavy or optional: imported when first needed
    return import_module(f"ouro.scan.{name}").scan
