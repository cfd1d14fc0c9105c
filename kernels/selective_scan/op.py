"""The selective scan with a gradient, for any L, N and number of channels, grouped or not, in either direction.

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t;    y_t = C_t h_t + D u_t

Source: Gu & Dao 2023, eq. 2 and alg. 2; delta is used as given (after softplus and bias).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ouro.kernels import rounding
from ouro.kernels.launch import choose, first, on, wrong_dtype, wrong_shape

NAME = "selective_scan"
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
MOST_STATES = 256
CHANNELS = 32
"""Per program: one warp, so that few samples still fill a GPU and no number of channels wastes much."""
CHUNK = 4
"""Steps whose operands are read at once, and between two checkpoints of the backward pass; there the states of a chunk
stay in registers."""


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor:
    """y [b e l] in u's dtype; state and sums are float32. Differentiable in all operands.

    Tensors that lie channels-last in memory (views of [b l e] and [b l n]) are read in place, others are copied to it;
    y is such a view. The backward pass keeps the operands only and makes b e l n / 4 floats while it runs.

    Args:
        u, delta: [b e l], float32, float16 or bfloat16.
        A: [e n], n up to 256.
        B, C: [b n l], or [b g n l] where group k of g serves channels k e/g to (k+1) e/g.
        D: [e] or None.
        reverse: from the last step to the first; y keeps its place in time.
        backend: "auto", "triton" or "reference".

    Raises:
        KernelError: operands that do not fit together, or a backend that cannot serve them.
    """
    if serving(u, delta, A, B, C, D, backend) == "reference":
        return reference(u, delta, A, B, C, D, reverse=reverse)
    return _Scan.apply(u, delta, A, B, C, D, reverse)


def scan_with_states(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """y [b e l], and every state h [b e l n] in float32, by Triton and without a gradient.

    Raises:
        KernelError: see `selective_scan`.
    """
    serving(u, delta, A, B, C, D, "triton")
    with torch.no_grad():
        y, h = _forward(*map(_detached, (u, delta, A, B, C, D)), reverse, want_y=True, every=1)
    assert y is not None and h is not None
    h = h.permute(0, 3, 1, 2)
    return y, h.flip(2) if reverse else h


def reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    reverse: bool = False,
) -> Tensor:
    """The definition: a loop over time in plain torch, in float32 or, if any operand has it, float64."""
    given = [x for x in (u, delta, A, B, C, D) if x is not None]
    real = torch.float64 if torch.float64 in {x.dtype for x in given} else torch.float32
    u_, delta_, A_, B_, C_ = (x.to(real) for x in (u, delta, A, B, C))
    B_, C_ = (x if x.dim() == 3 else x.repeat_interleave(u.shape[1] // x.shape[1], dim=1) for x in (B_, C_))
    B_, C_ = (x.unsqueeze(1) if x.dim() == 3 else x for x in (B_, C_))  # [b 1|e n l]
    h, ys = torch.zeros_like(A_), {}
    for t in reversed(range(u.shape[-1])) if reverse else range(u.shape[-1]):
        step = delta_[..., t, None]
        h = (step * A_).exp() * h + step * B_[..., t] * u_[..., t, None]
        ys[t] = (C_[..., t] * h).sum(-1)
    y = torch.stack([ys[t] for t in range(u.shape[-1])], dim=-1)
    if D is not None:
        y = y + D.to(real)[:, None] * u_
    return y.to(u.dtype)


def bounds(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    reverse: bool = False,
) -> dict[str, Tensor]:
    """How far float32 may be from the definition, per element."""
    return {"y": rounding.scan(u, delta, A, B, C, D, reverse=reverse).error}


def serving(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, backend: str = "triton"
) -> str:
    """The backend that runs this call.

    Raises:
        KernelError: none does; the message says why.
    """
    return choose(
        NAME,
        backend,
        {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D},
        invalid=misfit(u, delta, A, B, C, D),
        unsupported=unsupported(u, delta, A, B, C, D),
        strided=True,
    )


def unsupported(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> str | None:
    """What the kernel does not do, as a sentence, or None."""
    if A.shape[-1] > MOST_STATES:
        return f"A has {A.shape[-1]} states, expected at most {MOST_STATES}"
    return wrong_dtype({"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D}, *FLOATS)


def misfit(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> str | None:
    """What does not fit together, as a sentence, or None."""
    if u.dim() != 3 or 0 in u.shape:
        return f"u is {tuple(u.shape)}, expected a non-empty (b, e, l)"
    batch, channels, L = u.shape
    if A.dim() != 2 or A.shape[0] != channels or A.shape[1] < 1:
        return f"A is {tuple(A.shape)}, expected (e, n) with e = {channels}"
    dtype = wrong_dtype({"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D}, *FLOATS, torch.float64)
    if dtype is not None:
        return dtype
    groups = B.shape[1:2] if B.dim() == 4 else ()
    if groups and (groups[0] < 1 or channels % groups[0]):
        return f"B is {tuple(B.shape)}, expected (b, g, n, l) with g dividing e = {channels}"
    axes, shape = ("b g n l" if groups else "b n l"), (batch, *groups, A.shape[1], L)
    return first(
        wrong_shape("delta", delta, "b e l", batch, channels, L),
        wrong_shape("B", B, axes, *shape),
        wrong_shape("C", C, axes, *shape),
        wrong_shape("D", D, "e", channels),
    )


def rows(x: Tensor) -> Tensor:
    """u or delta [b e l] as [b l e] with its channels side by side in memory; copied only if they are not."""
    x = x.transpose(1, 2)
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def matrices(x: Tensor) -> Tensor:
    """B or C as float32 [b g l n] with its states side by side in memory; copied only if it is not."""
    x = (x.unsqueeze(1) if x.dim() == 3 else x).transpose(2, 3)
    # float32: half precision would have to be converted again in every program
    return x.float() if x.dtype != torch.float32 or x.stride(3) == 1 else x.contiguous()


def vector(*tensors: Tensor) -> int:
    """How many numbers can be read at once from any row of these [b g l n]: 4 or 1."""
    numbers = [stride for x in tensors for stride in x.stride()[:-1]] + [x.shape[-1] for x in tensors]
    return 4 if all(n % 4 == 0 for n in numbers) and all(x.data_ptr() % 16 == 0 for x in tensors) else 1


def _detached(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach()


class Launch:
    """What a kernel of the scan is launched with: operands as they want them, strides, constants and grid."""

    def __init__(self, u, delta, A, B, C, D, reverse) -> None:
        self.u, self.delta, self.B, self.C = rows(u), rows(delta), matrices(B), matrices(C)
        self.A, self.D = A.float().t().contiguous(), None if D is None else D.contiguous()
        self.batch, self.channels, self.L = u.shape
        self.N, self.groups = A.shape[1], self.B.shape[1]
        self.blocks = -(-self.channels // self.groups // CHANNELS)
        width = vector(self.B, self.C)
        # from sample to sample and group to group; those from step to step are constants of the kernel
        self.strides = [x.stride(0) for x in (self.u, self.delta)]
        self.strides += [s // width for x in (self.B, self.C) for s in x.stride()[:2]]
        steps = {"u_l": self.u, "delta_l": self.delta, "B_l": self.B, "C_l": self.C}
        self.constants = {name: x.stride(-2) for name, x in steps.items()}
        self.block_n = 1 << (self.N - 1).bit_length()
        self.constants |= {"E": self.channels, "N": self.N, "BLOCK_N": self.block_n, "BLOCK_E": CHANNELS}
        self.constants |= {"GROUPS": self.groups, "VECTOR": width, "REVERSE": reverse}
        self.grid = (self.batch * self.groups * self.blocks,)

    def operands(self) -> tuple:
        return self.u, self.delta, self.A, self.B, self.C, self.D

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.u.device)


def _forward(u, delta, A, B, C, D, reverse, *, want_y: bool, every: int | None) -> tuple[Tensor | None, Tensor | None]:
    """y [b e l], and the states after every `every` steps [b l//every n e]."""
    from ouro.kernels.selective_scan import kernel

    run = Launch(u, delta, A, B, C, D, reverse)
    y = run.empty(run.batch, run.L, run.channels, dtype=u.dtype) if want_y else None
    h = None if every is None else run.empty(run.batch, run.L // every, run.N, run.channels)
    with on(u.device):
        kernel.forward[run.grid](
            *run.operands(), y, h, run.L, *run.strides, **run.constants,
            UNROLL=every or CHUNK, num_warps=max(1, run.block_n // 32),
        )  # fmt: skip
    return None if y is None else y.transpose(1, 2), h


def _backward(u, delta, A, B, C, D, dy, reverse) -> list[Tensor | None]:
    from ouro.kernels.selective_scan import kernel

    h = _forward(u, delta, A, B, C, D, reverse, want_y=False, every=CHUNK)[1]
    run = Launch(u, delta, A, B, C, D, reverse)
    du, ddelta = (run.empty(run.batch, run.L, run.channels, dtype=x.dtype) for x in (u, delta))
    dA, dD = run.empty(run.batch, run.N, run.channels), run.empty(run.batch, run.channels)
    dB, dC = (run.empty(run.blocks, run.batch, run.groups, run.L, run.N) for _ in range(2))
    with on(u.device):
        kernel.backward[run.grid](
            *run.operands(), h, dy.transpose(1, 2).contiguous(), du, ddelta, dA, dB, dC, None if D is None else dD,
            run.L, *run.strides, **run.constants, EVERY=CHUNK, num_warps=max(1, run.block_n // 16),
        )  # fmt: skip
    dB, dC = (x.sum(0).transpose(2, 3).reshape(B.shape) for x in (dB, dC))
    grads = du.transpose(1, 2), ddelta.transpose(1, 2), dA.sum(0).t(), dB, dC, None if D is None else dD.sum(0)
    return [None if x is None else g.to(x.dtype) for g, x in zip(grads, (u, delta, A, B, C, D), strict=True)]


class _Scan(torch.autograd.Function):
    """Bridges torch and the kernels; keeps the operands only, where `torch.utils.checkpoint` can drop them."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, reverse):
        ctx.save_for_backward(u, delta, A, B, C, D)
        ctx.reverse = reverse
        return _forward(u, delta, A, B, C, D, reverse, want_y=True, every=None)[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        return *_backward(*ctx.saved_tensors, dy, ctx.reverse), None
