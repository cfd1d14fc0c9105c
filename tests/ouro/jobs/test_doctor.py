"""Every finding says what is there, and every fault says what to do."""

import json

import pytest
import torch

from ouro.jobs import doctor as module
from ouro.jobs.doctor import doctor


@pytest.fixture(scope="module")
def checks():
    return {check["name"]: check for check in doctor()["checks"]}


def test_doctor_answers_for_everything(checks):
    software = {"python", "torch", "torchvision", "timm", "numba", "triton", "gradio"}
    assert software | {"cpu", "mamba_ssm", "embedded models", "cache folder", "browser"} <= set(checks)
    assert {name for name in checks if name.startswith("scan: ")} == {
        f"scan: {name}" for name, _, _ in module.backends()
    }
    assert any(name.startswith("cuda") for name in checks)
    assert checks["torch"]["detail"] == torch.__version__
    json.dumps(list(checks.values()), allow_nan=False)


def test_fix_is_there_exactly_where_something_is_wrong(checks):
    for name, check in checks.items():
        assert check["detail"], name
        assert bool(check["fix"]) != check["ok"], name


def test_doctor_fails_only_for_what_is_required(monkeypatch):
    def one(ok, required):
        return lambda: module.Check("browser", ok, "detail", "" if ok else "fix", required)

    monkeypatch.setattr(module, "_software", lambda: iter(()))
    monkeypatch.setattr(module, "_zoo", one(True, True))
    monkeypatch.setattr(module, "_browser", one(False, False))
    assert doctor()["ok"]
    monkeypatch.setattr(module, "_browser", one(False, True))
    assert not doctor()["ok"]


def test_doctor_names_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("OURO_HOME", str(tmp_path / "file" / "below"))
    check = module._cache()
    assert not check.ok and "cannot write" in check.detail and "OURO_HOME" in check.fix


def test_doctor_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    assert module._cache().ok
    assert list(tmp_path.iterdir()) == []


def test_broken_extension_is_reported(monkeypatch):
    def broken(_name):
        raise ImportError("undefined symbol: _ZN3c10\nand more")

    monkeypatch.setattr(module, "find_spec", lambda _name: object())
    monkeypatch.setattr(module, "import_module", broken)
    check = module._mamba_ssm()
    assert check.detail == "installed, but its import fails: undefined symbol: _ZN3c10"
