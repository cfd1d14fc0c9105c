"""Ranks share the work exactly and fail together; torchrun gives the counts of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
from PIL import Image

from ouro.data.scenes import Scenes
from ouro.jobs.distributed import Ranks, joined
from ouro.jobs.evaluate import EvaluateSpec, evaluate
from ouro.jobs.quantize import QuantizeSpec, quantize
from tests.ouro.jobs.running import finish


def test_alone_there_is_one_rank() -> None:
    with joined() as ranks:
        assert ranks == Ranks(0, 1)
        assert ranks.gathered(lambda: 3) == [3] and ranks.agreed(lambda: 3) == 3
    assert not dist.is_initialized()


@pytest.fixture
def other_rank(monkeypatch):
    """Rank 0 of two; what the other one sends is put into the list that this gives."""
    messages = []
    monkeypatch.setattr(dist, "all_gather_object", lambda out, own: out.__setitem__(slice(None), [own, *messages]))
    return messages


def test_results_come_in_the_order_of_ranks(other_rank) -> None:
    other_rank.append(("", "theirs"))
    assert Ranks(0, 2).gathered(lambda: "own") == ["own", "theirs"]
    assert Ranks(0, 2).agreed(lambda: "own") == "own"


@pytest.mark.parametrize(("kind", "error"), [("value", ValueError), ("system", OSError), ("run", RuntimeError)])
def test_the_failure_of_another_rank_is_ours(other_rank, kind, error) -> None:
    other_rank.append((kind, "cannot read image x.png"))
    with pytest.raises(error, match=r"^cannot read image x\.png$"):
        Ranks(0, 2).gathered(lambda: 1)


@pytest.mark.parametrize("error", [FileNotFoundError("no x.png"), ValueError("no x.png"), RuntimeError("no x.png")])
def test_our_failure_is_sent_before_it_is_raised(other_rank, monkeypatch, error) -> None:
    other_rank.append(("", 1))
    sent = []
    exchange = dist.all_gather_object
    monkeypatch.setattr(dist, "all_gather_object", lambda out, own: (sent.append(own), exchange(out, own)))

    def fail() -> None:
        raise error

    with pytest.raises((ValueError, OSError, RuntimeError), match=r"^no x\.png$") as caught:
        Ranks(0, 2).gathered(fail)
    assert isinstance(error, type(caught.value)) and caught.value.__cause__ is error
    assert [message for _, message in sent] == ["no x.png"]


@pytest.fixture(scope="module")
def scenes_folder(tmp_path_factory) -> Path:
    """37 scenes as ImageNet lies on a disk: neither half of them is a number of whole batches of 5."""
    root = tmp_path_factory.mktemp("folder")
    images, labels = Scenes("test", 56).images(0, 37)
    for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        path = root / f"{label:02d}" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    assert len(list(root.iterdir())) == 12
    return root


def torchrun(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    ranks = ("torch.distributed.run", "--nproc-per-node", "2", "-m", "--", "ouro")
    return one_thread(*ranks, *arguments, **environment)


def one_thread(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a module in a process whose libraries have one thread each."""
    seen = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"} | environment
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, env=seen, timeout=600)


@pytest.mark.full
@pytest.mark.slow
def test_two_ranks_count_what_one_process_counts(scenes_folder, tmp_path) -> None:
    file, data = str(tmp_path / "q.safetensors"), f"folder:{scenes_folder}"
    spec = QuantizeSpec("vim_nano", calib="noise:2", options=(("steps_per_block", 0),), out=file)
    finish(quantize(spec, root=tmp_path))
    alone = finish(evaluate(EvaluateSpec(file, data, batch=5)))[1].values
    assert 0 < alone["top1"] < 1 and alone["n"] == 37 and alone["effective_bits"]["outlier_share"] > 0
    result = torchrun("evaluate", file, "--data", data, "--batch", "5", "--json")
    assert result.returncode == 0, result.stderr
    # one JSON object and nothing else: the second rank is silent
    together = json.loads(result.stdout)
    assert together["ranks"] == 2
    for key in set(alone) - {"ranks", "seconds", "device"}:
        assert together[key] == json.loads(json.dumps(alone[key])), key


@pytest.mark.full
@pytest.mark.slow
def test_two_ranks_generate_what_one_process_generates(tmp_path) -> None:
    command = ["generate", "vim_nano", "--num", "5", "--steps", "3", "--batch", "2", "--json"]
    results = [
        torchrun(*command, OURO_HOME=str(tmp_path / "two")),
        # with as many threads as a rank has: how a sum is split over threads shows in its last bits
        one_thread("ouro", *command, OURO_HOME=str(tmp_path / "one")),
    ]
    assert all(result.returncode == 0 for result in results), results
    together, alone = (json.loads(result.stdout) for result in results)
    assert together["set_digest"] == alone["set_digest"], "bit for bit"
    assert together["judges"] == alone["judges"]


@pytest.mark.full
@pytest.mark.slow
def test_a_failing_rank_fails_all_with_one_line(scenes_folder, tmp_path) -> None:
    broken = tmp_path / "folder"
    for path in sorted(scenes_folder.rglob("*.png"))[:20]:
        target = broken / path.relative_to(scenes_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    for number in range(12):
        (broken / f"{number:02d}").mkdir(exist_ok=True)
    # in the second batch, which the second rank reads
    bad = sorted(broken.rglob("*.png"))[7]
    bad.write_text("no image")
    result = torchrun("evaluate", "vim_nano", "--data", f"folder:{broken}", "--batch", "5", "--json")
    assert result.returncode != 0 and result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0].startswith(f"error: cannot read image {bad}: ")
