"""Training: reproducible, resumable after a round, and a card that says what was measured."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import ouro.jobs.train as module
from ouro.data import load, normalize
from ouro.data.source import open_data
from ouro.jobs.evaluate import EvaluateSpec, evaluate
from ouro.jobs.inputs import open_model
from ouro.jobs.train import RECIPES, Augment, Round, TrainSpec, for_data, train_job, train_round
from ouro.jobs.training_batches import training_batches
from ouro.models import variant
from ouro.models.zoo import embedded_path
from ouro.registry import MODELS
from ouro.store import WriteError, digest, read_json, read_tensors
from ouro.types import ModelSource
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


def textbook(spec):
    """The training of one round of two phases, with nothing but the loop: the state dict it ends with."""
    lr, phases = spec.rounds[0].lr, spec.rounds[0].phases
    model, done = module.new_model(spec), 0
    for size, steps in phases:
        model = module._at_size(model, size)
        average = {key: value.clone() for key, value in model.state_dict().items()}
        matrices = [m.weight for m in model.modules() if getattr(m, "weight", None) is not None and m.weight.dim() > 1]
        others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1, (step + 1) / spec.warmup) * 0.5 * (1 + math.cos(math.pi * done / sum(
                    steps for _, steps in phases)))  # fmt: skip
            if spec.data == "digits":
                images, labels = load("digits", split="train", size=size).augmented(done, spec.batch)
            else:
                images, labels = load("scenes", split="train", size=size, seed=spec.seed).images(
                    done * spec.batch, spec.batch
                )
            inputs = normalize(images, model.info.mean, model.info.std)
            if done < spec.reveal:
                masks = load("scenes", split="train", size=size).masks(done * spec.batch, spec.batch)
                inputs = torch.where(masks[:, None], inputs, inputs * (done / spec.reveal))
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels, label_smoothing=0.1).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            keep = min(0.99, (1 + step) / (10 + step))
            for key, value in model.state_dict().items():
                average[key] = torch.lerp(average[key], value, 1 - keep)
            done += 1
        model.load_state_dict(average)
    return model.state_dict()


@pytest.mark.parametrize(
    ("data", "reveal", "seed"),
    [("scenes", 0, 0), ("scenes", 0, 1), ("scenes", 4, 0), ("digits", 0, 0)],
    ids=["scenes", "another series", "revealed", "digits"],
)
def test_a_round_is_the_textbook_loop_bit_for_bit(data, reveal, seed) -> None:
    phases = ((16, 3), (20, 3))
    spec = TrainSpec("vim_nano", data, (Round(1e-3, phases),), seed, batch=4, warmup=2, reveal=reveal, device="cpu")
    trained = run(train_round(module.new_model(spec), spec, 0, [])).state_dict()
    wanted = textbook(spec)
    assert trained.keys() == wanted.keys()
    assert all(torch.equal(trained[key], wanted[key]) for key in wanted)


CIFAR = TrainSpec(
    "vim_micro_cifar10", "cifar10", (Round(4e-3, ((20, 60),)),), batch=32, warmup=5, ema=0.9, augment=Augment(mix=0.2),
    device="cpu",
)  # fmt: skip


@pytest.fixture
def small_cifar(monkeypatch):
    """A Vim of one block for ten classes."""
    small = replace(variant("vim_micro_cifar10").config, width=32, depth=1, image=20, num_classes=10)
    monkeypatch.setattr(module, "variant", lambda name: replace(MODELS.get(name), config=small))


def test_the_recipe_of_cifar10_learns_on_a_cpu(small_cifar, tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(module, "HELD_OUT", 500)
    unmixed = replace(CIFAR.augment, until=0.5)
    report = run(train_job(replace(CIFAR, rounds=(Round(4e-3, ((20, 120),)),), augment=unmixed), tmp_path))
    losses = [entry["loss"] for entry in read_json(tmp_path / "vim_micro_cifar10.json")["log"]]
    assert sum(losses[-2:]) / 2 < losses[0] - 0.1
    # chance is 10 %
    assert report.values["n"] == 500 and report.values["top1"] > 0.16
    assert report.values["train_images"] == 768 and report.values["epochs"] == 120 * 32 / 768
    assert "each is seen" not in caplog.text


def test_a_recipe_that_sees_few_images_too_often_says_so(small_cifar, tmp_path, caplog) -> None:
    next(train_job(replace(CIFAR, batch=512, rounds=(Round(4e-3, ((20, 20), (20, 500))),), augment=None), tmp_path))
    assert (
        "vim_micro_cifar10: cifar10 has 768 training images here, and each is seen 347 times; name a larger set"
        in caplog.text
    )


def test_a_training_starts_from_the_model_given(small_cifar, tmp_path) -> None:
    spec = replace(CIFAR, rounds=(Round(4e-3, ((20, 1),)),), ema=1.0)
    start = module.new_model(replace(spec, seed=5)).eval()
    before = {key: value.clone() for key, value in start.state_dict().items()}
    run(train_job(spec, tmp_path / "given", start))
    # an average that keeps a tenth of one step at most is close to where it came from
    trained, fresh = (read_tensors(tmp_path / "given" / "vim_micro_cifar10.safetensors")[0], module.new_model(spec))
    assert all(torch.equal(value, before[key]) for key, value in start.state_dict().items()) and not start.training
    for key, value in trained.items():
        assert (value - before[key]).abs().max() < 0.01
    assert any((trained[key] - value).abs().max() > 0.01 for key, value in fresh.state_dict().items())


def test_what_was_trained_from_another_start_is_not_taken_up(small_cifar, tmp_path) -> None:
    spec = replace(CIFAR, rounds=(Round(4e-3, ((20, 1),)),))
    models = (None, *(module.new_model(replace(spec, seed=seed)) for seed in (5, 6)))
    files = []
    for model in models:
        run(train_job(spec, tmp_path, model))
        files.append(read_tensors(tmp_path / "vim_micro_cifar10.safetensors")[0]["head.weight"])
    assert len(list(tmp_path.glob("vim_micro_cifar10-*.safetensors"))) == 3
    assert not torch.equal(files[0], files[1]) and not torch.equal(files[1], files[2])


def test_where_it_runs_is_no_part_of_what_is_taken_up(tmp_path) -> None:
    run(train_job(replace(TINY, device="cpu"), tmp_path))
    run(train_job(replace(TINY, device="auto"), tmp_path))
    assert len(list(tmp_path.glob("vim_nano-*.safetensors"))) == len(TINY.rounds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "digits"}, "digits has 10 classes, vim_nano has 12"),
        ({"data": "scene"}, "unknown data set 'scene'"),
        ({"device": "cuda:99"}, "device is 'cuda:99', but this machine has "),
        ({"device": "gpu"}, "device is 'gpu', allowed are auto, cpu, cuda and "),
    ],
    ids=["classes", "data", "no such GPU", "no such device"],
)
def test_what_cannot_be_trained_is_refused_before_the_first_step(tmp_path, change, message) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        next(train_job(replace(TINY, **change), tmp_path))


def test_an_unwritable_folder_is_refused_first(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="cannot write"):
        next(train_job(TINY, tmp_path / "file" / "out"))


def test_every_recipe_trains_a_registered_model() -> None:
    assert all(name in MODELS and spec.name == name for name, spec in RECIPES.items())


def test_own_pictures_get_a_head_for_their_classes_and_are_measured_on_others(tmp_path, caplog) -> None:
    for split in ("mine", "others"):
        for label in "ab":
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (20, 20), (80 * number, 0, 255)).save(tmp_path / split / label / f"{number}.png")
    mine, others = (f"folder:{tmp_path / split}" for split in ("mine", "others"))
    spec = for_data(replace(TINY, data=mine).shortened(2), ModelSource("vim_nano"))
    assert spec.class_names == ("a", "b") and spec.rounds == (Round(1e-3, ((20, 2),)),) and spec.start is None
    alone = run(train_job(spec, tmp_path / "out"))
    assert "is trained on whole, so the score says how well it is known by heart" in caplog.text
    trained = read_tensors(alone.values["path"])[0]
    assert trained["head.weight"].shape[0] == 2
    # and on from there
    source = ModelSource("vim_nano", alone.values["path"])
    spec = for_data(replace(TINY, data=mine, held_out=others).shortened(1), source)
    caplog.clear()
    card = run(train_job(spec, tmp_path / "further")).values
    assert (card["data"], card["n"]) == (others, 6) and "by heart" not in caplog.text
    with pytest.raises(ValueError, match="steps is 0, expected 1 or more"):
        TINY.shortened(0)


def drawn_folder(root):
    """Scenes as a person has pictures: larger than the input, one sub-folder per class."""
    data = load("scenes", split="test", size=40)
    for number in range(48):
        pixels, labels = data.images(number, 1)
        place = root / f"{int(labels[0]):02}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).save(place / f"{number}.png")
    return f"folder:{root}"


def drawn_masks(root):
    """Three pictures, none of them square, with masks beside them."""
    data = load("scenes_seg", split="test", size=60)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(data.classes))
    for number in range(3):
        pixels, classes = data.images(number, 1)
        Image.fromarray(pixels[0, :, :45].permute(1, 2, 0).numpy()).save(root / "images" / f"{number}.png")
        Image.fromarray(classes[0, :45].byte().numpy()).save(root / "masks" / f"{number}.png")
    return f"masks:{root}"


@pytest.mark.parametrize(
    ("name", "drawn", "score"),
    [("vim_nano", drawn_folder, "top1"), ("vmamba_nano_seg", drawn_masks, "miou")],
    ids=["folder", "masks"],
)
def test_the_card_has_the_score_that_evaluate_gives_what_was_written(name, drawn, score, tmp_path, monkeypatch) -> None:
    # the training has the model's own way to see pictures, not that of the set
    monkeypatch.undo()
    data = drawn(tmp_path / "pictures")
    source = ModelSource(name, str(embedded_path(variant(name).weights)))
    spec = replace(for_data(replace(RECIPES[name], data=data), source).shortened(1), batch=2)
    card = run(train_job(spec, tmp_path / "out")).values
    trained = ModelSource(name, card["path"], class_names=spec.class_names)
    found = run(evaluate(EvaluateSpec(trained, data, limit=None, batch=100))).values
    assert (card["n"], card[score], card["ci95"]) == (found["n"], found[score], found["ci95"])
    # that it is no matter how pictures are seen would prove nothing
    info = open_model(trained, "cpu").info
    seen, otherwise = (
        view.images(0, 1)[0]
        for view in (open_data(data, "test", info), load(data, split="test", size=info.input_size[-1]))
    )
    assert not torch.equal(seen, otherwise)
    batch = training_batches(spec, info, torch.device("cpu"))(0)
    known = normalize(open_data(data, "train", info).images(0, card["n"])[0], info.mean, info.std)
    assert all(any(torch.equal(image, other) for other in known) for image in batch.inputs)


def test_a_training_on_pictures_that_changed_begins_anew(tmp_path, monkeypatch) -> None:
    data, out = drawn_folder(tmp_path / "pictures"), tmp_path / "out"
    spec = for_data(replace(TINY, data=data).shortened(1), ModelSource("vim_nano"))

    def kept():
        run(train_job(spec, out))
        return len(list(out.glob("vim_nano-*.safetensors")))

    assert [kept(), kept()] == [1, 1]
    # the same folder by another name is the same
    monkeypatch.chdir(tmp_path)
    spec = replace(spec, data="folder:pictures")
    assert kept() == 1
    picture = next((tmp_path / "pictures").glob("*/0.png"))
    Image.new("RGB", (40, 40), (0, 255, 0)).save(picture)
    assert kept() == 2
    picture.unlink()
    assert kept() == 3


def test_what_was_begun_on_drawn_images_is_found_again(tmp_path) -> None:
    # the digest that such a training had before pictures were part of it
    run(train_job(TINY, tmp_path))
    described = {key: value for key, value in asdict(TINY).items() if key not in ("device", "start")}
    assert (tmp_path / f"vim_nano-{digest(described)}.safetensors").exists()


def test_a_held_out_set_of_other_classes_is_refused_before_the_training(tmp_path) -> None:
    with pytest.raises(ValueError, match="digits has 10 classes, vim_nano has 12"):
        run(train_job(replace(TINY, held_out="digits"), tmp_path))
