"""A short campaign: whatever is damaged is refused in a line or sane, and a killed job goes on as if it had not been."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ouro.store import read_tensors, write_tensors
from tests.campaign import mutate, runner
from tests.campaign.trials import KINDS

ROOT = Path(__file__).resolve().parents[1]


def campaign(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    """(exit code, what it says) of the command."""
    command = [sys.executable, "-m", "tests.campaign", "--keep", str(tmp_path / "kept"), *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_nothing_offends_in_a_short_campaign(tmp_path: Path) -> None:
    # commands have their kernels compiled first, 100,000 files take their time, and so does an app that is started
    left = ("options", "large folder", "endpoints", "files of the app")
    quick = [name for name, kind in KINDS.items() if kind.group in ("load", "app") and name not in left]
    only = [word for name in quick for word in ("--only", name)]
    code, said = campaign(tmp_path, *only, "--trials", "150", "--minutes", "5", "--out", str(tmp_path / "c.json"))
    found = json.loads((tmp_path / "c.json").read_text())
    assert code == 0 and found["offences"] == 0, said
    assert found["tried"]["mutation"] == 150 and {row["kind"] for row in found["kinds"]} == set(quick)


@pytest.mark.full
@pytest.mark.slow
def test_killed_jobs_go_on(tmp_path: Path) -> None:
    code, said = campaign(tmp_path, "--only", "kill -9", "--only", "SIGINT", "--trial", "0")
    assert code == 0, said


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind 'nonsense'; known: "):
        runner.campaign(1, 60, ["nonsense"], None)


@given(st.integers(0, 2**31))
def test_damage_is_a_function_of_its_seed(seed: int) -> None:
    value = {"a": [1, {"b": None}], "c": "x"}
    made = [mutate.damaged_json(random.Random(seed), value) for _ in range(2)]
    assert made[0] == made[1] and value == {"a": [1, {"b": None}], "c": "x"}
    data = bytes(range(100))
    assert mutate.damaged_bytes(random.Random(seed), data) == mutate.damaged_bytes(random.Random(seed), data)


def test_a_file_is_taken_apart_and_put_together(tmp_path: Path) -> None:
    import torch

    path = write_tensors(tmp_path / "x.safetensors", {"x": torch.arange(3.0)}, {"made by": "test"})
    header, body = mutate.split(path.read_bytes())
    assert header["__metadata__"] == {"made by": "test"} and len(body) == 12
    (tmp_path / "y.safetensors").write_bytes(mutate.joined(header, body))
    assert read_tensors(tmp_path / "y.safetensors")[0]["x"].tolist() == [0, 1, 2]
    header["x"]["shape"] = [4]
    (tmp_path / "z.safetensors").write_bytes(mutate.joined(header, body))
    with pytest.raises(ValueError, match="is no readable safetensors file"):
        read_tensors(tmp_path / "z.safetensors")
