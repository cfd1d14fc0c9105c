"""Every report says where and with what it was made."""

from __future__ import annotations

import re
import subprocess
import time

import torch

from ouro.jobs import provenance
from ouro.jobs.provenance import commit, device_name, run_info


def test_run_info_names_machine_versions_and_time():
    run = run_info(5, time.perf_counter() - 2)
    assert (run.seed, run.versions["torch"]) == (5, torch.__version__)
    assert {"python", "numba", "ouro"} <= run.versions.keys()
    assert 2 <= run.seconds < 60
    assert run.device == device_name()
    assert device_name().endswith(f", {torch.get_num_threads()} threads")


def test_commit_is_a_hash_or_unknown():
    assert re.fullmatch(r"[0-9a-f]{7,}(-dirty)?|unknown", commit())


def test_commit_is_unknown_without_git(monkeypatch):
    def no_git(*args: object, **kwargs: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    assert commit.__wrapped__() == "unknown"


def test_commit_of_another_repository_is_not_ours(monkeypatch, tmp_path):
    # as when the package is installed into an environment that lies inside somebody's checkout
    installed = tmp_path / "env" / "ouro" / "jobs"
    installed.mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(provenance, "__file__", str(installed / "provenance.py"))
    assert commit.__wrapped__() == "unknown"
