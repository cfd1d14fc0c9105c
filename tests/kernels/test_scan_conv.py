"""Both causal convolutions in one: the mixer's own, mirror images of each other, and each blind to its future."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ouro.kernels.causal_conv import causal_conv
from ouro.kernels.launch import KernelError
from ouro.models.layers import TokenConv1d

pytest.importorskip("triton")


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_mixers_convolution_in_both_directions(where: torch.device) -> None:
    torch.manual_seed(0)
    forward, backward = (TokenConv1d(12, 4).to(where) for _ in range(2))
    x = draw(1, 2, 23, 12).to(where)
    weights = [conv.weight.detach().squeeze(1) for conv in (forward, backward)]
    out = causal_conv(x, *weights, forward.bias.detach(), backward.bias.detach(), backend="triton")
    torch.testing.assert_close(out.u_f, F.silu(forward(x)))
    torch.testing.assert_close(out.u_b, F.silu(backward(x.flip(1))).flip(1))


def test_directions_are_mirror_images(where: torch.device) -> None:
    x, weight, bias = draw(2, 2, 23, 5).to(where), draw(3, 5, 4).to(where), draw(4, 5).to(where)
    there = causal_conv(x, weight, weight, bias, bias, backend="triton")
    back = causal_conv(x.flip(1), weight, weight, bias, bias, backend="triton")
    assert torch.equal(there.u_f, back.u_b.flip(1)) and torch.equal(there.u_b, back.u_f.flip(1))


@pytest.mark.parametrize("token", [0, 9, 15, 16, 22])
def test_a_token_reaches_its_own_and_three_more(token: int, where: torch.device) -> None:
    x, weight = draw(5, 1, 23, 3).to(where), draw(6, 3, 4).to(where)
    changed = x.clone()
    changed[:, token] += 1
    old, new = (causal_conv(given, weight, weight, backend="triton") for given in (x, changed))
    for name, reached in (("u_f", range(token, token + 4)), ("u_b", range(token - 3, token + 1))):
        differs = (getattr(old, name) != getattr(new, name)).any(-1)[0]
        assert differs.nonzero().flatten().tolist() == [t for t in reached if 0 <= t < 23], name


def test_errors_name_the_operand_and_a_gradient_is_left_to_the_reference(where: torch.device) -> None:
    x, weight = draw(7, 1, 5, 3).to(where), draw(8, 3, 4).to(where)
    with pytest.raises(KernelError, match=r"tried triton: weight_b is \(4, 3\), expected \(e, k\) = \(3, 4\)"):
        causal_conv(x, weight, weight.T, backend="triton")
    with pytest.raises(KernelError, match="weight_f spans 9 tokens, expected at most 8"):
        causal_conv(x, *[draw(9, 3, 9).to(where)] * 2, backend="triton")
    with pytest.raises(KernelError, match="tried triton: it has no gradient"):
        causal_conv(x.requires_grad_(), weight, weight, backend="triton")
    assert causal_conv(x, weight, weight).u_b.requires_grad
