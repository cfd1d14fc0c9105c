"""Both scans of Vim in one: the mixer's own result, whatever the chunks, and mirrored for mirrored tokens."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ouro.kernels.bidirectional_scan import bidirectional_scan, reference
from ouro.kernels.bidirectional_scan.cases import operands
from ouro.kernels.bidirectional_scan.op import chunks_for
from ouro.kernels.launch import KernelError
from ouro.models.mixer import Mixer, MixerSpec
from ouro.scan.order import reverse, row_major
from tests.testing import assert_close

pytest.importorskip("triton")


def test_it_is_what_a_vim_mixer_computes_between_its_projections(where: torch.device) -> None:
    order = row_major((2, 3), 3)
    torch.manual_seed(0)
    mixer = Mixer(MixerSpec(6, 12, 4, 2, (order, reverse(order)), order, scale=1 / 2)).to(where)
    tokens = torch.randn(2, 7, 6, device=where)
    given = {}
    x, z = mixer.in_proj(tokens).chunk(2, dim=-1)
    with torch.no_grad():
        for way, scan in zip("fb", mixer.scans, strict=True):
            seen = x.flip(1) if way == "b" else x
            u = F.silu(scan.conv1d(seen))
            low, B, C = scan.x_proj(u).split(scan.split, dim=-1)
            inputs = {"u": u, "delta": F.softplus(scan.dt_proj(low)), "B": B, "C": C}
            given |= {f"{name}_{way}": t.flip(1) if way == "b" else t for name, t in inputs.items()}
            given |= {f"A_{way}": -scan.A_log.exp(), f"D_{way}": scan.D.detach()}
        for chunks in (1, 2):
            y = bidirectional_scan(**given, z=z.detach(), chunks=chunks, backend="triton")
            assert_close(mixer.out_proj(y), mixer(tokens), name=f"mixer, {chunks} chunks")


@pytest.mark.parametrize("chunks", [1, 3])
def test_mirrored_tokens_and_exchanged_directions_mirror_y(chunks: int, where: torch.device) -> None:
    given = operands(torch.Generator().manual_seed(1), where, b=1, e=33, l=24, n=4)
    other = {"f": "b", "b": "f"}
    mirrored = {
        (f"{name[:-1]}{other[name[-1]]}" if name != "z" else name): x.flip(1) if x.dim() == 3 else x
        for name, x in given.items()
    }
    y = bidirectional_scan(**given, chunks=chunks, backend="triton")
    assert_close(bidirectional_scan(**mirrored, chunks=chunks, backend="triton"), y.flip(1), name="y")


def test_chunks_change_nothing_but_rounding(where: torch.device) -> None:
    given = operands(torch.Generator().manual_seed(2), where, b=2, e=3, l=13, n=3, delta="mixed")
    exact = reference(**{name: x.double() for name, x in given.items()})
    for chunks in (1, 2, 5, 13, 100):
        y = bidirectional_scan(**given, chunks=chunks, backend="triton")
        assert_close(y, exact, name=f"{chunks} chunks", rtol=2e-5)


def test_a_sample_does_not_see_its_batch_mates(where: torch.device) -> None:
    given = operands(torch.Generator().manual_seed(3), where, b=3, e=5, l=9, n=4)
    alone = {name: x[1:2] if x.dim() == 3 else x for name, x in given.items()}
    for chunks in (1, 2):
        whole = bidirectional_scan(**given, chunks=chunks, backend="triton")
        assert torch.equal(bidirectional_scan(**alone, chunks=chunks, backend="triton"), whole[1:2])


def test_time_is_cut_only_where_rows_are_few() -> None:
    assert chunks_for(128, 1536, 197) == chunks_for(128, 768, 197) == 1
    assert 1 < chunks_for(8, 768, 197) < chunks_for(1, 768, 197) <= 197 // 8
    assert chunks_for(1, 32, 7) == 1


def test_errors_name_the_operand(where: torch.device) -> None:
    given = operands(torch.Generator().manual_seed(4), where, b=1, e=4, l=5, n=3)
    with pytest.raises(KernelError, match=r"triton: C_b is \(1, 3, 5\), expected \(b, l, n\) = \(1, 5, 3\)"):
        bidirectional_scan(**given | {"C_b": given["C_b"].transpose(1, 2)}, backend="triton")
    with pytest.raises(KernelError, match="chunks is 0, expected 1 or more"):
        bidirectional_scan(**given, chunks=0)
    given["u_f"].requires_grad_()
    with pytest.raises(KernelError, match="tried triton: it has no gradient; call selective_scan"):
        bidirectional_scan(**given, backend="triton")
    assert bidirectional_scan(**given).requires_grad, "auto falls back to what has one"
