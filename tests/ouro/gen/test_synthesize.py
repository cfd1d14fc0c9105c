"""Synthesis: images that depend on (seed, index) alone, losses that fall, bounds that hold, jobs that resume."""

from __future__ import annotations

import copy
import signal
import subprocess
import sys

import pytest
import torch

from ouro.gen import synthesize
from ouro.gen.methods.ouro import OuroMambaGen
from ouro.gen.synthesize import Diverged, initial_images, optimize, to_pixels
from ouro.jobs.synthesize import SynthesisSpec
from ouro.jobs.synthesize import synthesize as job
from ouro.models import create_model
from ouro.store import WriteError, read_tensors, write_tensors
from ouro.types import ModelSource

SMALL = {"depth": 2, "image": 24, "patch": 4, "stride": 4, "width": 32, "num_classes": 5}


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_model("vim_nano", **SMALL)


def run(steps):
    updates = []
    while True:
        try:
            updates.append(next(steps))
        except StopIteration as end:
            return updates, end.value


@pytest.mark.parametrize(
    ("features", "steps", "count"), [("y_p", 30, 1), pytest.param("alpha_p", 15, 1, marks=pytest.mark.full)]
)
def test_losses_fall_and_pixels_stay_inside_black_and_white(features: str, steps: int, count: int) -> None:
    trained = create_model("vim_nano", pretrained=True)
    objective = OuroMambaGen(trained, features=features, blocks=2, channels=32)
    updates, made = run(optimize(trained, objective, steps=steps, seed=0, count=count))
    assert set(updates[0].data["loss"]) == {"contrast", "class", "smooth"}
    for term in updates[0].data["loss"]:
        # means of five steps: every step looks at the image from another place
        first, last = (sum(update.data["loss"][term] for update in part) / 5 for part in (updates[:5], updates[-5:]))
        assert last < first, term
    mean, std = (torch.tensor(x)[:, None, None] for x in (trained.info.mean, trained.info.std))
    pixels = made.images * std + mean
    assert pixels.min() >= -1e-6 and pixels.max() <= 1 + 1e-6
    assert updates[-1].data["preview"].dtype == torch.uint8
    assert all(parameter.requires_grad and parameter.grad is None for parameter in trained.parameters())


def test_images_become_as_smooth_as_they_should_be(model) -> None:
    objective = OuroMambaGen(model, window=3, positives=4, blocks=0, channels=16)
    updates, _ = run(optimize(model, objective, steps=50, seed=0, count=2))
    assert updates[-1].data["loss"]["smooth"] < 0.1 * updates[0].data["loss"]["smooth"]


@pytest.mark.parametrize("features", ["y_p", "alpha_p"])
def test_nearly_every_pixel_gets_a_gradient_from_the_contrast(model, features: str) -> None:
    from ouro.taps import record

    objective = OuroMambaGen(model, features=features, window=3, positives=4, blocks=0)
    images = initial_images(model.info, 0, 0, 2).requires_grad_()
    with record(model, *objective.patterns, detach=False) as trace:
        logits = model(images)
    terms = objective.losses(trace, logits, torch.tensor([0, 1]), images, torch.tensor([0.2, 0.2]))
    (gradient,) = torch.autograd.grad(terms["contrast"].sum(), images)
    assert (gradient != 0).float().mean() > 0.99


def test_an_image_depends_on_its_seed_and_index_only(model) -> None:
    options = {"num": 11, "steps": 6, "window": 3, "positives": 4, "blocks": 0}
    together = synthesize(model, batch=11, **options)
    apart = synthesize(model, batch=5, **options)
    assert torch.equal(together.labels, apart.labels)
    assert torch.equal(together.images, apart.images), "bit for bit, whatever the chunk"
    assert torch.equal(together.images, synthesize(model, batch=11, **options).images)
    assert not torch.equal(together.images, synthesize(model, batch=11, seed=1, **options).images)


def test_noise_is_gaussian_and_costs_nothing(model) -> None:
    made = synthesize(model, method="noise", num=8)
    assert abs(made.images.mean()) < 0.05 and abs(made.images.std() - 1) < 0.05


def test_pixels_survive_the_way_to_model_space_and_back(model) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3, 1)[None, :, None]
    mean, std = (torch.tensor(x)[:, None, None] for x in (model.info.mean, model.info.std))
    assert torch.equal(to_pixels((pixels / 255 - mean) / std, model.info), pixels)


@pytest.fixture
def untrained(monkeypatch, model):
    """The job on a model that trains in no time: what it makes of it is not the point here."""
    monkeypatch.setattr("ouro.jobs.synthesize.create_model", lambda name, pretrained: model)
    monkeypatch.setattr("ouro.jobs.synthesize.open_model", lambda source, device: model)


SPEC = {"num": 3, "steps": 4, "batch": 1, "options": (("window", 3), ("positives", 4))}


def test_a_stopped_job_goes_on_and_ends_with_the_same_images(untrained, tmp_path) -> None:
    spec = SynthesisSpec("vim_nano", **SPEC)
    _, whole = run(job(spec, root=tmp_path / "whole"))
    steps = job(spec, root=tmp_path / "parts")
    for update in steps:
        if update.data.get("finished") == 2:
            break
    steps.close()
    updates, resumed = run(job(spec, root=tmp_path / "parts"))
    assert torch.equal(resumed.arrays["images"], whole.arrays["images"])
    assert sum("step" in update.message for update in updates) == 4, "only the last image was optimized again"
    assert set(resumed.values["recognized"]) == {"self", "other"}


_KILLED = """
import os, signal, sys, torch
from ouro.jobs import synthesize
from ouro.types import ModelSource
torch.set_num_threads(int(sys.argv[2]))
synthesize.KEEP_EVERY = 0.0
source = ModelSource("vim_nano", config=(("depth", 2), ("num_classes", 12)), weights=sys.argv[3])
spec = synthesize.SynthesisSpec(source, num=2, steps=6, batch=2, options=(("window", 3), ("positives", 4)))
for update in synthesize.synthesize(spec, root=sys.argv[1]):
    if update.step >= 2 * int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
"""
"""Kills itself after so many steps of its only chunk."""


@pytest.mark.full
def test_a_job_killed_within_a_chunk_goes_on_from_there_to_the_same_set(tmp_path) -> None:
    small = create_model("vim_nano", depth=2)
    weights = str(write_tensors(tmp_path / "weights.safetensors", small.state_dict()))
    source = ModelSource("vim_nano", config=(("depth", 2), ("num_classes", 12)), weights=weights)
    options = (("window", 3), ("positives", 4))
    outs = [str(tmp_path / name) for name in ("whole.safetensors", "killed.safetensors")]
    whole, resumed = (SynthesisSpec(source, num=2, steps=6, batch=2, options=options, out=out) for out in outs)
    undisturbed = run(job(whole, root=tmp_path / "whole"))[1]
    root = tmp_path / "killed"
    for step in (2, 4):
        arguments = (str(root), str(torch.get_num_threads()), weights, str(step))
        ended = subprocess.run([sys.executable, "-c", _KILLED, *arguments], capture_output=True, text=True, check=False)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        (kept,) = root.glob("runs/*/begun-0000.safetensors")
    updates, report = run(job(resumed, root=root))
    taken = [update.step // 2 for update in updates if "step" in update.message]
    assert taken[0] > 1 and taken[-1] == 6, "the first steps were not taken again"
    assert not kept.exists()
    assert report.values["set_digest"] == undisturbed.values["set_digest"]
    (first, header), (second, other) = (read_tensors(out) for out in outs)
    assert first.keys() == second.keys() and all(torch.equal(x, second[name]) for name, x in first.items())
    assert header == other and "seconds" not in header["values"]
    for name, losses in undisturbed.arrays.items():
        assert torch.equal(losses, report.arrays[name])


def test_what_was_begun_of_other_images_is_refused(model) -> None:
    objective = OuroMambaGen(model, seed=0, window=3, positives=4)
    begun = {"images": torch.zeros(1, 3, 24, 24), "loss.class": torch.zeros(2, dtype=torch.float64)}
    with pytest.raises(
        ValueError, match=r"^what was begun has 2 steps of images .*, expected 1 to 4 of \(2, 3, 24, 24\)"
    ):
        next(optimize(model, objective, steps=4, seed=0, count=2, begun=begun))


def test_the_set_on_disk_carries_what_made_it(untrained, tmp_path) -> None:
    out = tmp_path / "set.safetensors"
    _, report = run(job(SynthesisSpec("vim_nano", out=str(out), **SPEC), root=tmp_path))
    tensors, metadata = read_tensors(out)
    assert torch.equal(tensors["images"], report.arrays["images"]) and len(tensors["labels"]) == 3
    assert metadata["kind"] == "calibration set" and '"seed": 0' in metadata["values"]


def test_independent_models_judge_the_images_that_they_can_see(untrained, tmp_path, monkeypatch) -> None:
    spec = SynthesisSpec("vim_nano", **SPEC)
    monkeypatch.setattr("ouro.jobs.synthesize.witnesses_of", lambda name: ["vim_nano_witness", "vmamba_nano"])
    judged = run(job(spec, root=tmp_path))[1].values
    # the fixture stands in for every model, so that all of them see the same in the same images
    own = judged["recognized"]["self"]
    assert judged["recognized"]["other"] == own and set(judged["judges"].values()) == {own}
    monkeypatch.setattr("ouro.jobs.synthesize.witnesses_of", lambda name: [])
    alone = run(job(spec, root=tmp_path))[1].values
    assert alone["recognized"]["other"] is None and alone["judges"] == {} and alone["witness"] is None


def test_an_unwritable_target_is_refused_before_the_work(untrained, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    spec = SynthesisSpec("vim_nano", out=str(tmp_path / "file" / "set.safetensors"), **SPEC)
    with pytest.raises(WriteError, match="cannot write"):
        next(job(spec, root=tmp_path))


def test_more_images_than_memory_holds_are_refused_with_the_numbers(untrained, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("ouro.jobs.synthesize.available_bytes", lambda: 50_000_000)
    with pytest.raises(
        ValueError, match=r"20000 images of vim_nano, 1 at a time, take about 0\.4 GB; 0\.1 GB are free"
    ):
        run(job(SynthesisSpec("vim_nano", **SPEC | {"num": 20000}), root=tmp_path))
    assert not (tmp_path / "runs").exists(), "before any work is done"
    monkeypatch.setattr("ouro.jobs.synthesize.available_bytes", lambda: None)
    assert len(run(job(SynthesisSpec("vim_nano", **SPEC), root=tmp_path))[1].arrays["images"]) == 3
    monkeypatch.setattr("ouro.jobs.synthesize.available_bytes", lambda: 0)
    # nothing is left to be made of it
    assert len(run(job(SynthesisSpec("vim_nano", **SPEC), root=tmp_path))[1].arrays["images"]) == 3


def test_a_loss_that_is_not_finite_names_the_layer_and_keeps_what_was_good(untrained, tmp_path, model) -> None:
    good = model.layers[1].mixer.out_proj.weight.detach().clone()
    steps = job(SynthesisSpec("vim_nano", **SPEC), root=tmp_path)
    updates = [next(steps), next(steps)]
    try:
        with torch.no_grad():
            model.layers[1].mixer.out_proj.weight[0, 0] = torch.nan
        with pytest.raises(Diverged, match=r"became NaN or infinite, first at layers\.1\..* at step 3") as caught:
            next(steps)
    finally:
        with torch.no_grad():
            model.layers[1].mixer.out_proj.weight.copy_(good)
    (kept,) = tmp_path.rglob("diverged-0000.safetensors")
    assert str(kept) in str(caught.value) and caught.value.steps == 2
    # of the images after step 1: those of step 2 are what the losses were not finite at
    assert torch.equal(to_pixels(read_tensors(kept)[0]["images"], model.info), updates[0].data["preview"])


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"steps": -1}, "steps is -1, expected 0 or more"),
        ({"num": 0}, "num is 0, expected 1 or more"),
        ({"method": "clamps"}, "unknown generation method 'clamps'"),
        ({"lr": 0.0}, "lr is 0.0, expected a positive number"),
    ],
)
def test_a_wrong_spec_is_refused(bad: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SynthesisSpec("vim_nano", **bad)


def test_wrong_options_are_refused(model) -> None:
    with pytest.raises(
        ValueError, match=r"window is 4, expected an odd number from 3 to 6 \(the model's largest grid\)"
    ):
        OuroMambaGen(model, window=4)
    with pytest.raises(ValueError, match="positives is 30, expected 1 to 24"):
        OuroMambaGen(model, positives=30)
    with pytest.raises(ValueError, match="unknown features 'rows'; known: y_p, alpha_p"):
        OuroMambaGen(model, features="rows")


@pytest.mark.parametrize("bad", [{"num": 0}, {"num": 2.5}, {"batch": 0}, {"batch": -1}, {"steps": -1}])
def test_numbers_that_make_no_set_are_refused(model, bad) -> None:
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=f"^{name} is {value}, expected (a whole number, )?[01] or more$"):
        synthesize(model, **({"num": 1, "steps": 1} | bad))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_gradients_are_the_business_of_synthesis_alone(model, context) -> None:
    wanted = synthesize(model, num=1, steps=2).images
    with context():
        assert torch.equal(synthesize(model, num=1, steps=2).images, wanted)


def test_the_default_type_of_torch_changes_no_image(model) -> None:
    wanted = synthesize(model, num=1, steps=2).images
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(synthesize(model, num=1, steps=2).images, wanted)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_model_in_float64_makes_images_and_one_in_half_precision_says_why_not(model) -> None:
    images = synthesize(copy.deepcopy(model).double(), num=1, steps=2).images
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, synthesize(model, num=1, steps=2).images, atol=0.05, rtol=0)
    with pytest.raises(ValueError, match=r"is float16, synthesis takes float32 or float64; give model\.float\(\)$"):
        synthesize(copy.deepcopy(model).half(), num=1, steps=2)
