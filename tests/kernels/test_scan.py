"""The Triton scan in the interpreter: gradients, both directions, any layout, and its place among the scan backends."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ouro.kernels.launch import KernelError
from ouro.kernels.selective_scan import reference, scan_with_states, selective_scan
from ouro.kernels.selective_scan.cases import operands
from ouro.models.mixer import Mixer, MixerSpec, Scan
from ouro.scan import BackendError
from ouro.scan import selective_scan as dispatched
from ouro.scan.dispatch import backends
from ouro.scan.order import column_major, reverse, row_major
from ouro.types import PatchWindow, ScanInputs, ScanRounding
from tests.testing import assert_close

pytest.importorskip("triton")

SIZES = [
    pytest.param({"b": 1, "e": 1, "l": 1, "n": 1}, id="all-ones"),
    pytest.param({"b": 2, "e": 5, "l": 3, "n": 3}, id="l3-e5-n3"),
    pytest.param({"b": 1, "e": 40, "l": 23, "n": 16}, id="l23-e40"),
    pytest.param({"b": 2, "e": 68, "l": 6, "n": 4, "groups": 2}, id="groups-wider-than-a-block"),
    pytest.param({"b": 1, "e": 7, "l": 5, "n": 20, "skip": False}, id="n20-no-skip"),
    pytest.param({"b": 1, "e": 9, "l": 9, "n": 2, "delta": "mixed"}, id="mixed-delta"),
    pytest.param({"b": 1, "e": 9, "l": 5, "n": 2, "delta": "zero"}, id="zero-delta"),
    pytest.param({"b": 1, "e": 3, "l": 197, "n": 16}, id="l197", marks=pytest.mark.full),
]


def leaves(where: torch.device, seed: int = 0, **size: object) -> dict[str, Tensor | None]:
    drawn = operands(torch.Generator().manual_seed(seed), where, **size)
    return {name: None if x is None else x.requires_grad_() for name, x in drawn.items()}


def results(run, given: dict[str, Tensor | None], **options: object) -> dict[str, Tensor]:
    """y, and the gradient of a fixed random sum of it with respect to every operand."""
    y = run(**given, **options)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y)
    tracked = {name: x for name, x in given.items() if x is not None}
    gradients = torch.autograd.grad((y * weight).sum(), list(tracked.values()))
    return {"y": y.detach(), **dict(zip((f"d{name}" for name in tracked), gradients, strict=True))}


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("size", SIZES)
def test_y_and_gradients_are_those_of_the_float64_reference(size: dict, backward: bool, where: torch.device) -> None:
    given = leaves(where, **size)
    exact = {name: None if x is None else x.detach().double().requires_grad_() for name, x in given.items()}
    expected = results(reference, exact, reverse=backward)
    actual = results(selective_scan, given, reverse=backward, backend="triton")
    for name, want in expected.items():
        assert_close(actual[name], want, name=name, atol=2e-6 * max(1.0, want.abs().max().item()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, where: torch.device) -> None:
    given = leaves(where, b=1, e=12, l=7, n=4, dtype=dtype)
    wide = {name: x.detach().float().requires_grad_() for name, x in given.items()}
    actual, expected = results(selective_scan, given, backend="triton"), results(reference, wide)
    for name, x in actual.items():
        # the half precision y weighs its gradient by a rounded number, and dy is that
        assert_close(x, expected[name].to(x.dtype), name=name, atol=0.05 if dtype == torch.bfloat16 else 0.01)
    assert [actual[name].dtype for name in ("y", "du", "ddelta", "dA", "dB")] == [dtype] * 3 + [torch.float32, dtype]


def test_reverse_is_the_flipped_scan_of_flipped_operands(where: torch.device) -> None:
    given = operands(torch.Generator().manual_seed(3), where, b=1, e=33, l=23, n=16)
    flipped = given | {name: given[name].flip(-1) for name in ("u", "delta", "B", "C")}
    backward = selective_scan(**given, reverse=True, backend="triton")
    assert torch.equal(backward, selective_scan(**flipped, backend="triton").flip(-1))


def test_memory_layout_does_not_matter(where: torch.device) -> None:
    given = operands(torch.Generator().manual_seed(4), where, b=2, e=36, l=9, n=4)
    strange = {name: x.contiguous() for name, x in given.items()}
    padded = torch.full((2, 9, 3, 12), torch.nan, device=where)
    padded[:, :, 1, 3:7] = given["B"].transpose(1, 2)
    strange["B"] = padded[:, :, 1, 3:7].transpose(1, 2)
    strange["A"] = given["A"].repeat_interleave(2, dim=1)[:, ::2]
    strange["D"] = given["D"].repeat_interleave(2)[::2]
    expected = results(selective_scan, {name: x.requires_grad_() for name, x in given.items()}, backend="triton")
    actual = results(
        selective_scan, {name: x.detach().requires_grad_() for name, x in strange.items()}, backend="triton"
    )
    for name, want in expected.items():
        assert torch.equal(actual[name], want), name


def test_a_sample_does_not_see_its_batch_mates(where: torch.device) -> None:
    given = operands(torch.Generator().manual_seed(5), where, b=3, e=33, l=7, n=4)
    whole = selective_scan(**given, backend="triton")
    alone = {name: x[1:2] if name in ("u", "delta", "B", "C") else x for name, x in given.items()}
    assert torch.equal(selective_scan(**alone, backend="triton"), whole[1:2])


def test_states_obey_the_recurrence_in_both_directions(where: torch.device) -> None:
    given = operands(torch.Generator().manual_seed(6), where, b=2, e=5, l=7, n=3)
    for backward in (False, True):
        y, h = scan_with_states(**given, reverse=backward)
        assert torch.equal(y, selective_scan(**given, reverse=backward, backend="triton"))
        steps = list(range(6, -1, -1) if backward else range(7))
        for before, now in pairwise(steps):
            decay = (given["delta"][..., now, None] * given["A"]).exp()
            drive = (given["delta"] * given["u"])[..., now, None] * given["B"][..., now].unsqueeze(1)
            assert_close(h[:, :, now], decay * h[:, :, before] + drive, name=f"h at {now}")


def test_dispatch_runs_triton_with_gradient_or_states(where: torch.device) -> None:
    given = leaves(where, b=2, e=12, l=9, n=2, groups=4)
    expected, actual = (
        results(lambda backend, **x: dispatched(ScanInputs(**x), backend=backend).y, given, backend=name)
        for name in ("reference", "triton")
    )
    for name, want in expected.items():
        assert_close(actual[name], want, name=name)
    with torch.no_grad():
        states = [dispatched(ScanInputs(**given), backend=name, keep_states=True).h for name in ("reference", "triton")]
    assert_close(states[1], states[0], name="h")


def test_four_directions_of_a_mixer_run_on_triton(where: torch.device) -> None:
    rows, columns = row_major((3, 4)), column_major((3, 4))
    orders = (rows, columns, reverse(rows), reverse(columns))
    torch.manual_seed(0)
    mixer = Mixer(MixerSpec(6, 12, 1, 2, orders, rows, kernel=3, conv="grid", gate="none", norm=True)).to(where)
    tokens = torch.randn(2, 12, 6, device=where)
    outputs = {}
    for backend in ("reference", "triton"):
        for module in mixer.modules():
            if isinstance(module, Scan):
                module.backend = backend
        out = mixer(tokens)
        outputs[backend] = [out, *torch.autograd.grad(out.square().sum(), list(mixer.parameters()))]
    names = ["out", *(name for name, _ in mixer.named_parameters())]
    for name, actual, expected in zip(names, outputs["triton"], outputs["reference"], strict=True):
        assert_close(actual, expected, name=name)


def test_dispatch_says_what_triton_does_not_do(where: torch.device) -> None:
    given = leaves(where, b=1, e=3, l=5, n=2)
    inputs = ScanInputs(**given)
    window = PatchWindow(3, torch.ones(1, 5, device=where), row_major((2, 2), 2))
    for reason, request in (
        ("it rounds nothing inside the recurrence", {"rounding": ScanRounding()}),
        ("the states it returns carry no gradient", {"keep_states": True}),
        (
            "u is float64, expected float32 or float16 or bfloat16",
            {"inputs": ScanInputs(inputs.u.double(), *list(given.values())[1:])},
        ),
        ("its window is at most 7 wide, this one 9", {"window": replace(window, size=9)}),
        ("the states or a window of them, not both", {"window": window, "keep_states": True}),
    ):
        with pytest.raises(BackendError, match=f"'triton' cannot serve this request: .*{reason}"):
            dispatched(**({"inputs": inputs} | request), backend="triton")
    assert {name: usable for name, usable, _ in backends()}["triton"] == torch.cuda.is_available()


def test_errors_name_what_was_given_and_every_backend_tried(where: torch.device) -> None:
    given = operands(torch.Generator().manual_seed(7), where, b=1, e=4, l=5, n=3)
    with pytest.raises(KernelError, match=r"tried triton: delta is \(1, 5, 4\), expected \(b, e, l\) = \(1, 4, 5\)"):
        selective_scan(**given | {"delta": given["delta"].transpose(1, 2)}, backend="triton")
    with pytest.raises(KernelError, match=r"tried triton: .*; reference: C is \(1, 3, 4\), expected \(b, n, l\)"):
        selective_scan(**given | {"C": given["C"][..., :4]})
    with pytest.raises(KernelError, match=r"B is \(1, 3, 2, 5\), expected \(b, g, n, l\) with g dividing e = 4"):
        selective_scan(**given | {"B": torch.ones(1, 3, 2, 5, device=where)})
    with pytest.raises(KernelError, match="A has 300 states, expected at most 256"):
        wide = operands(torch.Generator(), where, b=1, e=2, l=2, n=300)
        selective_scan(**wide, backend="triton")
