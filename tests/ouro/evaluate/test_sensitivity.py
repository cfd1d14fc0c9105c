"""Damage of single sites: identities of the three modes, groups that partition, and no influence of the batch."""

import copy
import math
import re
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ouro.evaluate.fidelity import compare
from ouro.evaluate.sensitivity import MODES, damage, divergence, grouped, sensitivity
from ouro.evaluate.widths import damages_by_width, elements
from ouro.models import create_model
from ouro.quant import quantize
from ouro.quant.apply import attach_calibration
from ouro.quant.calibrate import calibrating
from ouro.quant.search.budget import allocate
from ouro.taps import taps
from ouro.tasks.classification import Classification
from ouro.types import Progress
from tests.zoo import inputs, small

TASK = Classification()


def finish(job):
    updates = []
    while True:
        try:
            updates.append(next(job))
        except StopIteration as end:
            assert all(isinstance(update, Progress) and 0 <= update.step <= update.total for update in updates)
            assert [update.step for update in updates] == sorted(update.step for update in updates)
            return end.value


def measured(*arguments, **options):
    return finish(sensitivity(*arguments, **options))


@pytest.fixture(scope="module")
def model():
    """Two blocks of 32 channels over 7 x 7 patches, with outliers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model("vim_nano", width=32, depth=2, image=28)
        with torch.no_grad():
            for block in model.layers:
                block.norm.weight[:2] *= 12
            model.head.weight.normal_(std=0.5)
    return model.eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(7, 3, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def labels():
    return torch.arange(7) % 3


@pytest.fixture(scope="module")
def calibration(model, images):
    return quantize(model, images, method="minmax", bits="w4a4")


@pytest.fixture(scope="module")
def alone(model, calibration, images, labels):
    return measured(model, calibration, images, labels)


def only(calibration, *paths):
    """The calibration of these sites and no others."""
    plan = replace(calibration.plan, sites={path: calibration.plan.sites[path] for path in paths})
    return replace(calibration, plan=plan, state={path: calibration.state[path] for path in paths})


def rounded_logits(model, calibration, images):
    with torch.no_grad():
        return attach_calibration(copy.deepcopy(model), calibration)(images)


def test_isolated_is_the_model_with_one_quantizer(model, calibration, images, labels, alone):
    assert len(alone.rows) == 24
    with torch.no_grad():
        exact = model(images)
    assert alone.score == (exact.argmax(1) == labels).double().mean().item()
    for row in alone.rows[::5]:
        logits = rounded_logits(model, only(calibration, *row.group.paths), images)
        assert row.damage == damage(TASK, exact, logits, labels) and row.isolated_kl == row.damage.kl > 0
    kls = [row.damage.kl for row in alone.rows]
    assert kls == sorted(kls, reverse=True)
    assert alone.whole == damage(TASK, exact, rounded_logits(model, calibration, images), labels)


def test_damage_is_what_torch_says_it_is():
    exact, rounded = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
    actual = damage(TASK, exact, rounded, torch.zeros(9, dtype=torch.long))
    expected = F.kl_div(rounded.log_softmax(-1), exact.log_softmax(-1), log_target=True, reduction="batchmean")
    assert actual.kl == pytest.approx(expected.item(), rel=1e-5)
    assert actual.drop == pytest.approx(((exact.argmax(1) == 0).sum() - (rounded.argmax(1) == 0).sum()).item() / 9)
    assert actual.sqnr_db == compare(exact, rounded).sqnr_db
    assert divergence(TASK, exact, exact + 3) == pytest.approx(0, abs=1e-12)
    same = damage(TASK, exact, exact)
    assert (same.kl, same.drop, same.sqnr_db) == (0, None, math.inf)


def test_a_site_at_32_bits_does_no_damage(model, images, labels):
    path = "layers.1.mixer.in_proj.tap_in"
    calibration = quantize(model, images, method="minmax", bits="w4a4", site_bits={path: 32})
    result = measured(model, calibration, images, labels)
    (row,) = (row for row in result.rows if row.group.name == path)
    assert len(result.rows) == 24 and row == result.rows[-1] and row.group.bits == (32,)
    assert (row.damage.kl, row.damage.drop, row.damage.sqnr_db) == (0, 0, math.inf)


def test_cumulative_ends_in_the_fully_rounded_model(model, calibration, images, labels, alone):
    result = measured(model, calibration, images, labels, mode="cumulative")
    assert [row.group for row in result.rows] == [row.group for row in alone.rows][::-1]
    assert [row.isolated_kl for row in result.rows] == [row.damage.kl for row in alone.rows][::-1]
    assert result.rows[0].damage == alone.rows[-1].damage
    assert result.rows[-1].damage == result.whole == alone.whole
    paths = [row.group.name for row in result.rows[:9]]
    with torch.no_grad():
        wanted = damage(TASK, model(images), rounded_logits(model, only(calibration, *paths), images), labels)
    assert result.rows[8].damage == wanted


def test_leave_one_float_of_one_site_is_the_float_model(model, calibration, images, labels):
    single = only(calibration, "layers.0.mixer.in_proj.tap_w")
    (row,) = measured(model, single, images, labels, mode="leave_one_float").rows
    assert (row.damage.kl, row.damage.drop, row.isolated_kl) == (0, 0, None)


def test_leave_one_float_of_two_sites_is_the_other_one_alone(model, calibration, images):
    paths = ["layers.0.mixer.in_proj.tap_w", "layers.1.mixer.out_proj.tap_in"]
    pair = only(calibration, *paths)
    left = {row.group.name: row.damage for row in measured(model, pair, images, mode="leave_one_float").rows}
    alone = {row.group.name: row.damage for row in measured(model, pair, images).rows}
    assert left == {paths[0]: alone[paths[1]], paths[1]: alone[paths[0]]}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("by", [pytest.param("site", marks=pytest.mark.full), "group"])
def test_the_batch_has_no_influence(model, calibration, images, labels, mode, by):
    runs = [measured(model, calibration, images, labels, mode=mode, by=by, batch=batch) for batch in (1, 3, 7)]
    wanted = {row.group: row.damage for row in runs[0].rows}
    for result in runs[1:]:
        assert {row.group for row in result.rows} == set(wanted)
        for row in result.rows:
            # the last digits of logits depend on the shapes of matrices that are multiplied
            assert row.damage.kl == pytest.approx(wanted[row.group].kl, rel=1e-3, abs=1e-9)
            assert row.damage.drop == wanted[row.group].drop
            assert row.damage.sqnr_db == pytest.approx(wanted[row.group].sqnr_db, abs=0.02)


@pytest.mark.parametrize("name", ["vim_nano", "vmamba_nano", "mambavision_nano"])
@pytest.mark.parametrize("scope", ["lin", "full"])
def test_groups_partition_the_sites(name, scope):
    model = small(name).eval()
    images = inputs(model, 1)
    plan = quantize(model, images, method="minmax", bits="w8a8", scope=scope).plan
    site_of = {path: tap.site for path, tap in taps(model)}
    for by in ("site", "group"):
        groups = grouped(model, plan, images, by)
        paths = [path for group in groups for path in group.paths]
        assert sorted(paths) == sorted(plan.sites) and len({group.name for group in groups}) == len(groups)
        assert {group.block for group in groups} <= {"stem", *model.blocks(), "head"}
        for group in groups:
            assert len({site_of[path] for path in group.paths}) == 1
            assert group.kind == (site_of[group.paths[0]] if by == "group" else group.kind)


def test_a_group_is_the_model_with_its_sites_rounded(model, calibration, images):
    result = measured(model, calibration, images, by="group")
    assert {row.group.name for row in result.rows} == {
        f"layers.{block} linear.{kind}" for block in (0, 1) for kind in ("in", "weight")
    }
    row = result.rows[1]
    with torch.no_grad():
        assert row.damage == damage(
            TASK, model(images), rounded_logits(model, only(calibration, *row.group.paths), images)
        )
    assert row.damage.drop is None and result.score is None


def test_recurrent_and_outer_sites_take_part():
    model = small("vim_nano").eval()
    shown = inputs(model, 3)
    calibration = quantize(model, shown, method="minmax", bits="w4a4h4", scope="full")
    result = measured(model, calibration, shown, by="group")
    kinds = {row.group.kind: row.damage.kl for row in result.rows}
    assert {"embed.in", "head.weight", "scan.h", "scan.A_bar"} <= set(kinds)
    assert all(kinds[kind] > 0 for kind in ("embed.in", "head.weight", "scan.h", "scan.A_bar"))


def test_the_model_stays_as_it_is(model, calibration, images):
    with torch.no_grad():
        before = model(images)
        next(sensitivity(model, calibration, images))
        assert torch.equal(model(images), before)
    assert all(tap.quantizer is None for _, tap in taps(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "alone"}, "unknown mode 'alone'; known: isolated, cumulative, leave_one_float"),
        ({"by": "layer"}, "unknown grouping 'layer'; known: site, group"),
        ({"batch": 0}, "7 images in batches of 0 were given, expected 1 or more of both"),
    ],
    ids=["mode", "grouping", "batch"],
)
def test_wrong_use_is_refused(model, calibration, images, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        measured(model, calibration, images, **options)


def test_logits_that_are_nan_are_a_failure():
    with pytest.raises(RuntimeError, match=r"^the model's logits are NaN for 1 of 2 images; is an input NaN\?$"):
        damage(TASK, torch.zeros(2, 3), torch.tensor([[0.0, 1, 2], [torch.nan, 0, 0]]))


def test_elements_are_those_of_one_image(model, calibration, images):
    sizes = elements(model, calibration, images[:1])
    assert sizes["layers.0.mixer.in_proj.tap_in"] == 50 * 32 and sizes["layers.0.mixer.in_proj.tap_w"] == 128 * 32
    assert set(sizes) == set(calibration.plan.sites)


@pytest.mark.parametrize("by", ["site", "group"])
def test_damages_by_width_are_isolated_damages(model, images, by):
    how = {"method": "minmax", "bits": "w4a4", "scope": "lin", "seed": 0}
    items = finish(damages_by_width(model, images, (3, 8), by=by, **how))
    assert len(items) == {"site": 24, "group": 4}[by]
    for width in (3, 8):
        calibration = quantize(model, images, method="minmax", bits=f"w{width}a{width}")
        wanted = {row.group.name: row.damage.kl for row in measured(model, calibration, images, by=by).rows}
        assert {item.name: item.damages[width] for item in items} == wanted
    weights = [p.numel() for name, p in model.named_parameters() if "mixer" in name and name.endswith("proj.weight")]
    assert sum(item.size for item in items if item.kind == "weights") == sum(weights)
    chosen = allocate(items, 8)
    job = calibrating(model, images, **how, site_bits=chosen.site_bits)
    uniform = quantize(model, images, method="minmax", bits="w8a8")
    assert {path: spec.bits for path, spec in finish(job).plan.sites.items()} == dict.fromkeys(uniform.plan.sites, 8)


def test_what_stays_in_floating_point_is_not_chosen_for():
    model = small("vim_nano").eval()
    how = {"method": "minmax", "scope": "rec", "seed": 0}
    items = finish(damages_by_width(model, inputs(model, 2), (4,), by="group", bits="w32a4h4", **how))
    assert {item.kind for item in items} == {"activations"}
    assert not [path for item in items for path in item.paths if path.endswith(("tap_h", "tap_A_bar", "tap_w"))]
