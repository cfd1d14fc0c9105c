"""Training: reproducible, resumable after a round, and a card that says what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import ouro.jobs.train as module
from ouro.jobs.train import RECIPES, Round, TrainSpec, revealed, train_job
from ouro.models import variant
from ouro.registry import MODELS
from ouro.store import WriteError, read_json, read_tensors
from tests import zoo

TINY = TrainSpec("vim_nano", "scenes", (Round(1e-3, ((16, 2),)), Round(1e-3, ((20, 2),))), batch=4, warmup=1)


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch):
    """Measures the card on a hundred small images."""
    monkeypatch.setattr(module, "HELD_OUT", 100)
    small = module.variant("vim_nano").config.__class__(16, depth=1, image=20, patch=4, stride=4, num_classes=12)
    real = module.variant
    monkeypatch.setattr(module, "variant", lambda name: module.replace(real(name), config=small))


def run(job):
    while True:
        try:
            next(job)
        except StopIteration as end:
            return end.value


def test_the_same_recipe_gives_the_same_weights_and_a_card(tmp_path) -> None:
    first = run(train_job(TINY, tmp_path / "a"))
    run(train_job(TINY, tmp_path / "b"))
    a, b = (read_tensors(tmp_path / folder / "vim_nano.safetensors")[0] for folder in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)
    card = read_json(tmp_path / "a" / "vim_nano.json")
    assert card["n"] == 100 and card["steps"] == 4 and 0 <= card["ci95"][0] <= card["top1"] <= card["ci95"][1] <= 1
    assert first.values["path"].endswith("vim_nano.safetensors") and "log" not in first.values


def test_a_stopped_training_goes_on_after_its_last_finished_round(tmp_path, monkeypatch) -> None:
    whole = run(train_job(TINY, tmp_path / "whole"))
    real, called = module.train_round, []

    def stops_in_the_second(model, spec, number, log):
        called.append(number)
        if number == 1 and len(called) == 2:
            raise KeyboardInterrupt
        return (yield from real(model, spec, number, log))

    monkeypatch.setattr(module, "train_round", stops_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(train_job(TINY, tmp_path / "parts"))
    resumed = run(train_job(TINY, tmp_path / "parts"))
    assert called == [0, 1, 1]
    a, b = (read_tensors(report.values["path"])[0] for report in (whole, resumed))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", ["vmamba_nano", "localvmamba_nano", "mambavision_nano"])
def test_every_family_trains_from_one_size_to_the_next(name, tmp_path, monkeypatch) -> None:
    small = replace(zoo.small(name).config, num_classes=12)
    real = variant(name)
    monkeypatch.setattr(module, "variant", lambda _: replace(real, config=small))
    spec = TrainSpec(name, "scenes", (Round(1e-3, ((16, 2), (24, 2))),), batch=4, warmup=1, reveal=3)
    report = run(train_job(spec, tmp_path))
    trained, _ = read_tensors(report.values["path"])
    fresh = module.new_model(spec).state_dict()
    assert trained.keys() == fresh.keys()
    assert any(not torch.equal(trained[key], fresh[key]) for key in trained)
    assert all(value.isfinite().all() for value in trained.values())


def test_the_background_fades_in_and_the_object_stays() -> None:
    inputs = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[:, 1:3, 1:3] = True
    half = revealed(inputs, masks, 0.5)
    assert torch.equal(half[:, :, 1:3, 1:3], inputs[:, :, 1:3, 1:3])
    assert torch.equal(half[:, :, 0], inputs[:, :, 0] / 2)
    assert torch.equal(revealed(inputs, masks, 1), inputs)


def test_an_unwritable_folder_is_found_out_first(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="cannot write"):
        next(train_job(TINY, tmp_path / "file" / "out"))


def test_every_recipe_trains_a_registered_model() -> None:
    assert all(name in MODELS and spec.name == name for name, spec in RECIPES.items())
