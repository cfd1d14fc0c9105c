"""What every registered kernel owes: its reference's values on all test cases, one kind of error, bounded machine code."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from ouro import kernels
from ouro.kernels.assembly import Assembly, count
from ouro.kernels.audit import complaints
from ouro.kernels.gate import check, compare, inputs_of, outputs
from ouro.kernels.gate import rows as gate_rows
from ouro.kernels.launch import Build, KernelError, can_run

KERNELS = [kernels.kernel(name) for name in kernels.NAMES]
LONG = ("bidirectional_scan", "implicit_attention", "patched_scan")
"""The interpreter takes seconds for a case of these, as for the sizes of a real model: all but the first three are `full`."""
TESTED = [
    pytest.param(
        k, case, id=f"{k.name}: {case.name}",
        marks=[pytest.mark.full] if (at > 2 and k.name in LONG) or "vim" in case.name.lower() else [],
    )
    for k in KERNELS
    for at, case in enumerate(case for case in k.cases if not case.bench)
]  # fmt: skip
each = pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)


@pytest.mark.parametrize(("kernel", "case"), TESTED)
# what hardware does with infinities and NaN in silence, numpy mentions
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_kernel_equals_its_reference(kernel, case, where):
    verdict = check(kernel, case, where)
    assert verdict.passed, verdict.complaint


@pytest.mark.full
def test_machine_code_keeps_its_bounds(machine_code):
    assert {row["kernel"] for row in machine_code} == {k.name for k in KERNELS if k.builds}
    complaints = [
        f"{r['kernel']}, {r['build']}, sm_{r['capability']}: {c}" for r in machine_code for c in r["complaints"]
    ]
    assert not complaints, "\n".join(complaints)


@pytest.mark.full
def test_compiler_takes_every_launch_of_the_cases(audited):
    """The interpreter is more patient than the compiler: with types, and with what is bound under a condition."""
    assert {(row["kernel"], row["case"]) for row in audited["cases"]} >= {
        (k.name, case.name) for k in KERNELS for case in k.cases if not case.bench
    }
    complaints = [f"{row['kernel']}, {row['case']}: {row['complaint']}" for row in audited["cases"] if row["complaint"]]
    assert not complaints, "\n".join(complaints)


@pytest.mark.full
@each
def test_bounds_are_close_to_what_they_bound(kernel, machine_code):
    rows = [row for row in machine_code if row["kernel"] == kernel.name]
    loose = [
        f"{r['build']}: {r['per_element']:.1f}, bound {r['most']}" for r in rows if r["per_element"] < 0.8 * r["most"]
    ]
    assert not loose, "\n".join(loose)


@each
def test_record_is_complete(kernel):
    names = [case.name for case in kernel.cases]
    assert len(names) == len(set(names)), [name for name, times in Counter(names).items() if times > 1]
    assert {90, 80} == {capability for build in kernel.builds for capability in build.most}
    for case in kernel.cases:
        if case.bench:
            assert kernel.floor(case).bytes > 0
    folder = Path(str(kernels.__file__)).parent / kernel.name
    assert len((folder / "README.md").read_text("utf-8")) > 300


@each
def test_inputs_are_left_alone(kernel, where):
    case = next(case for case in kernel.cases if not case.bench)
    inputs, before = inputs_of(case, where), inputs_of(case, where)
    kernel.op(**inputs, backend="triton")
    for name, value in before.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(inputs[name], value), name


@each
def test_auto_is_the_reference_without_a_gpu(kernel):
    case = next(case for case in kernel.cases if not case.bench)
    inputs = inputs_of(case, torch.device("cpu"))
    ours, wanted = outputs(kernel.op(**inputs)), outputs(kernel.reference(**inputs))
    assert compare(ours, wanted, {"": (0.0, 0.0)}).passed


@each
def test_errors_say_what_was_tried(kernel, where, monkeypatch):
    case = next(c for c in kernel.cases if not c.bench and _wide(inputs_of(c, where)))
    inputs = inputs_of(case, where)
    name = _wide(inputs)
    with pytest.raises(
        KernelError, match=re.escape(f"{kernel.name}: unknown backend 'cuda'; known: auto, triton, reference")
    ):
        kernel.op(**inputs, backend="cuda")
    scattered = inputs | {name: inputs[name].mT.contiguous().mT}
    if kernel.strided:
        together, apart = (outputs(kernel.op(**given, backend="triton")) for given in (inputs, scattered))
        assert compare(apart, together, {"": (0.0, 0.0)}).passed
    else:
        with pytest.raises(KernelError, match=f"{kernel.name} cannot run; tried triton: .*{name} not contiguous"):
            kernel.op(**scattered, backend="triton")
    # the definition takes it all the same
    assert outputs(kernel.op(**scattered, backend="reference"))
    for backend, tried in (("auto", "tried triton: .*; reference: "), ("triton", "tried triton: ")):
        with pytest.raises(KernelError, match=tried + f".*different devices: .*{name} on meta"):
            kernel.op(**inputs | {name: inputs[name].to("meta")}, backend=backend)
        with pytest.raises(KernelError, match=tried + f"{name} is complex64, expected "):
            kernel.op(**inputs | {name: inputs[name].to(torch.complex64)}, backend=backend)
    monkeypatch.setattr("ouro.kernels.launch.find_spec", lambda name: None)
    with pytest.raises(KernelError, match=f"{kernel.name} cannot run; tried triton: triton is not installed"):
        kernel.op(**inputs, backend="triton")


def _wide(inputs):
    """Name of the first operand that a transposition scatters."""
    tensors = {name: x for name, x in inputs.items() if isinstance(x, torch.Tensor) and x.dim() >= 2}
    return next((name for name, x in tensors.items() if min(x.shape[-2:]) > 1), None)


def test_no_triton_on_old_gpus_or_other_devices(monkeypatch):
    monkeypatch.setattr("ouro.kernels.launch.interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert can_run(torch.device("cuda", 0)) == "cuda:0 has compute capability 7.5, it needs 8.0 or newer"
    assert can_run(torch.device("cpu")) == "it runs on CUDA devices, the inputs are on cpu"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert can_run(torch.device("cuda", 0)) is None


def test_unknown_kernels_are_named():
    with pytest.raises(ValueError, match="unknown kernel 'scan'; known: "):
        kernels.kernel("scan")


def test_loops_are_separated():
    sass = """
.L_x_0:
        /*0010*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0020*/                   FADD R2, R2, R3 ;
.L_x_2:
        /*0030*/                   FFMA.FTZ R4, R4, R5, R6 ;
        /*0040*/              @!P0 SHFL.BFLY PT, R4, R4, 0x1, 0x1f ;
        /*0050*/               @P0 BRA `(.L_x_2) ;
        /*0060*/                   LDL R3, [R1] ;
        /*0070*/               @P1 BRA `(.L_x_1) ;
        /*0080*/                   EXIT ;
.L_x_3:
        /*0090*/                   BRA `(.L_x_3);
        /*00a0*/                   NOP;
"""
    total, loops = count(sass)
    assert loops == (Counter(FFMA=1, SHFL=1, BRA=1),)
    assert total == Counter(MOV=1, FADD=1, FFMA=1, SHFL=1, BRA=3, LDL=1, EXIT=1)
    code = Assembly("mma.sync.s8", sass, 32, 8, 0, total, loops)
    build = Build("b", "m:f", {}, {}, 2.0, {90: 1.0}, absent=("SHFL",), ptx={90: (r"wgmma.*s8",)})
    assert list(complaints(build, 90, code)) == [
        "1 instructions on local memory, 8 bytes of stack",
        "1.50 instructions per element, at most 1 expected",
        "1 SHFL in the hottest loop",
        "no wgmma.*s8 in the PTX",
    ]


def test_gate_finds_what_differs():
    a = {"y": torch.tensor([1.0, torch.nan]), "codes": torch.tensor([1, 2]), "zero": None}
    assert compare(a, a, {}).passed
    for other in (
        {"y": torch.tensor([1.0, 2.0])},
        {"codes": torch.tensor([1, 3])},
        {"zero": torch.zeros(1)},
        {"y": torch.ones(3)},
    ):
        assert next(iter(other)) in str(compare(a, a | other, {}).complaint)
        assert next(iter(other)) in str(compare(a | other, a, {}).complaint)
    assert compare(a, a | {"codes": torch.tensor([1, 3])}, {"codes": (0.0, 1.0)}).max_error == 1.0


def test_gate_counts_errors_by_what_is_allowed():
    wanted = {"y": torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64), "codes": torch.tensor([7, 7])}
    errors = torch.tensor([0.0, 1e-9, 0.01, 0.04, 0.2, 0.3], dtype=torch.float64)
    actual = {"y": wanted["y"] + errors, "codes": torch.tensor([7, 8])}
    verdict = compare(actual, wanted, {"": (0.1, 0.1), "codes": (0.0, 1.0)})
    # allowed is 0.2: exact, up to 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, more
    assert verdict.counts == (2, 1, 0, 0, 0, 1, 3, 1)
    assert verdict.share == pytest.approx(1.5) and verdict.max_error == 1.0
    assert "y: 1 of 6 differ, worst at (5,): 1.3, expected 1" in verdict.complaint
    # the code is off by more than any of y, and allowed to be
    assert "codes" not in verdict.complaint


def test_gate_takes_no_number_for_infinity():
    for wrong in (5.0, -torch.inf, torch.nan):
        verdict = compare({"y": torch.tensor([wrong])}, {"y": torch.tensor([torch.inf])}, {})
        assert not verdict.passed and verdict.counts[-1] == 1 and verdict.share == torch.inf
    assert compare({"y": torch.tensor([torch.inf])}, {"y": torch.tensor([torch.inf])}, {}).counts[0] == 1


def test_rows_of_the_gate_are_json_with_every_value_counted(where):
    for row, case in zip(gate_rows(["paired_linear"], where), kernels.kernel("paired_linear").cases, strict=False):
        kernel = kernels.kernel("paired_linear")
        values = sum(x.numel() for x in outputs(kernel.reference(**inputs_of(case, where))).values() if x is not None)
        assert sum(row["counts"]) == values and row["counts"][-1] == 0 and 0 <= row["share"] <= 1
        assert json.loads(json.dumps(row, allow_nan=False)) == row
