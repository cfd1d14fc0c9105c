"""What this machine can run, what it cannot, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ouro._torchvision_ops import declare_missing_ops
from ouro.scan.dispatch import backends
from ouro.settings import first_line
from ouro.store import WriteError, default_root, write_bytes

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Commands of a browser that the tests of the workbench can drive; the first has no window to draw, which is a third of the work."""

_REINSTALL = 'pip install -c constraints.txt -e ".[lab,dev]"'


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; `fix` is empty where nothing is wrong. Without a `required` one the project does not work."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
    required: bool = False


def doctor() -> dict[str, Any]:
    """Looks at this machine; {"ok": all that is required is there, "checks": [{name, ok, detail, fix, required}]}."""
    checks = [*_software(), *_devices(), *_scan_backends(), _mamba_ssm(), _zoo(), _cache(), _browser()]
    return {"ok": all(check.ok for check in checks if check.required), "checks": [asdict(check) for check in checks]}


def find_browser() -> str | None:
    """Path of a browser that the tests can drive, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def _software() -> Iterator[Check]:
    supported = (3, 10) <= sys.version_info[:2] <= (3, 13)
    yield Check("python", supported, platform.python_version(), "" if supported else "use Python 3.10 to 3.13", True)
    ours = declare_missing_ops()
    for package in ("torch", "torchvision", "timm", "numba", "gradio"):
        installed = _version(package)
        detail = installed or "not installed"
        if package == "torchvision" and installed and ours:
            detail += "; its compiled operators were built for another torch and stay unused"
        yield Check(package, installed is not None, detail, "" if installed else _REINSTALL, required=True)
    yield _triton()


def _triton() -> Check:
    installed = _version("triton")
    if installed is None:
        return Check("triton", False, "not installed", "it comes with the project on Linux; kernels need it")
    if torch.cuda.is_available():
        return Check("triton", True, f"{installed}, compiles for the device")
    if os.environ.get("TRITON_INTERPRET") == "1":
        return Check("triton", True, f"{installed}, in its interpreter: for correctness, not for speed")
    fix = "set TRITON_INTERPRET=1 to run the kernels in the interpreter, for correctness"
    return Check("triton", False, f"{installed}, but no CUDA device to compile for", fix)


def _devices() -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("cpu", True, f"{platform.machine()}, {cores} cores, torch uses {torch.get_num_threads()} threads")
    if not torch.cuda.is_available():
        built = torch.version.cuda is not None
        detail = "none found" if built else "this build of torch is for the CPU only"
        fix = "check the driver with nvidia-smi" if built else "with an NVIDIA GPU: install a CUDA build of torch"
        yield Check("cuda", False, detail, fix)
        return
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        capability = f"compute capability {device.major}.{device.minor}"
        yield Check(f"cuda:{index}", True, f"{device.name}, {device.total_memory / 2**30:.0f} GiB, {capability}")


def _scan_backends() -> Iterator[Check]:
    for name, available, reason in backends():
        fix = "" if available else "not needed: another backend serves the same requests"
        yield Check(f"scan: {name}", available, reason, fix)


def _mamba_ssm() -> Check:
    # installed is not enough: its compiled extension has to fit this torch and this driver
    missing = [name for name in ("mamba_ssm", "selective_scan_cuda") if find_spec(name) is None]
    fix = 'optional, on a machine with a CUDA compiler: pip install --no-build-isolation -e ".[mamba]"'
    if missing:
        return Check("mamba_ssm", False, f"not installed: {', '.join(missing)}", fix)
    try:
        import_module("selective_scan_cuda")
        import_module("mamba_ssm")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = first_line(error)
        return Check("mamba_ssm", False, f"installed, but its import fails: {reason}", f"build it again; {fix}")
    return Check("mamba_ssm", True, _version("mamba_ssm") or "importable")


def _zoo() -> Check:
    spec = find_spec("ouro.models")
    assert spec is not None and spec.submodule_search_locations
    weights = Path(next(iter(spec.submodule_search_locations))) / "weights"
    names = sorted(path.stem for path in weights.glob("*.safetensors"))
    if not names:
        return Check("embedded models", False, f"no weights in {weights}", "reinstall, or: ouro train NAME", True)
    return Check("embedded models", True, ", ".join(names), required=True)


def _cache() -> Check:
    root = default_root()
    probe = root / f".doctor-{os.getpid()}"
    try:
        write_bytes(probe, b"")
        probe.unlink()
    except WriteError as error:
        return Check("cache folder", False, str(error), "set OURO_HOME to a folder that can be written", True)
    free = shutil.disk_usage(root).free / 2**30
    return Check("cache folder", True, f"{root}, {free:.1f} GiB free", required=True)


def _browser() -> Check:
    path = find_browser()
    fix = "" if path else f"only for the tests of the workbench: install one of {', '.join(BROWSERS)}"
    return Check("browser", path is not None, path or "none found", fix)


def _version(package: str) -> str | None:
    """Installed version; torch's own word for torch, because only that separates the CUDA build from the CPU build."""
    if package == "torch":
        return str(torch.__version__)
    try:
        return version(package)
    except PackageNotFoundError:
        return None
