"""OuroMamba+: what it reduces to, which rule it picks for which tensor, and that its clip learns with the right gradient."""

from __future__ import annotations

import pytest
import torch

from ouro.quant import quantize
from ouro.quant.grid import asymmetric, fake_quantize, range_of
from ouro.quant.method import Seen
from ouro.quant.methods.ouro_plus import KAPPAS, REFRESHES, OuroMambaPlus
from ouro.quant.modules import ClippedTokenQuantizer, TokenQuantizer, round_tokens, token_outliers
from ouro.taps import Tap, detach
from ouro.types import QuantSpec

TAP = Tap("linear.in", "b l c")
SPEC = QuantSpec(4, False, "clipped token", 8)


def rows(seed: int = 0, *, loud: tuple[int, ...] = (), steps: int = 23, channels: int = 32) -> torch.Tensor:
    """Noise [2 l c] with channels that are ten times as large at every fourth step."""
    x = torch.randn(2, steps, channels, generator=torch.Generator().manual_seed(seed))
    x[:, ::4, list(loud)] *= 10
    return x


def quantizer(kappa: float, refresh: int = 1, clip: float = 1.0) -> ClippedTokenQuantizer:
    state = {"clip": torch.tensor([clip]), "rule": torch.tensor([kappa, float(refresh)])}
    return ClippedTokenQuantizer(TAP, SPEC, state)


def test_without_outliers_and_clip_it_is_dynamic_per_token() -> None:
    x = rows()
    plain = TokenQuantizer(TAP, QuantSpec(4, False, "token"), {})
    assert torch.equal(quantizer(0.0)(x), plain(x))


@pytest.mark.parametrize("refresh", [1, 5, 10])
def test_inliers_have_the_grid_of_what_is_left(refresh) -> None:
    x = rows(loud=(3, 7))
    y = quantizer(2.5, refresh)(x)
    listed = token_outliers(x, SPEC, 2.5, refresh)
    assert listed[:, ::4, 3].any() and not listed.all()
    for b, t in ((0, 0), (1, 4), (1, 9)):
        rest = x[b, t][~listed[b, t]]
        step, zero = range_of(rest.amin().clamp(max=0), rest.amax().clamp(min=0), 4)
        assert torch.allclose(y[b, t][~listed[b, t]], fake_quantize(rest, step, asymmetric(4), zero))
        # outliers are 16 times as finely rounded, over their own range
        large = x[b, t][listed[b, t]]
        if len(large):
            reach = float(large.amax().clamp(min=0) - large.amin().clamp(max=0))
            assert (y[b, t][listed[b, t]] - large).abs().max() <= 0.5 * reach / 255 + 1e-6


def test_a_sample_is_rounded_by_itself() -> None:
    x = rows(loud=(1,))
    module = quantizer(2.0, 5, 0.8)
    assert torch.equal(module(x)[1:], module(x[1:]))


def fitted(x: torch.Tensor, **options: float) -> dict[str, torch.Tensor]:
    return OuroMambaPlus(**options).fit(Seen("here", TAP, SPEC, [x]))


def test_the_rule_is_fitted_to_the_tensor() -> None:
    loud = fitted(rows(loud=(3, 7)))
    assert loud["rule"][0] in KAPPAS and loud["rule"][1] in REFRESHES
    # a tensor with two values only: nothing stands out, and rounding it loses nothing
    flat = fitted(torch.ones(2, 23, 32))
    assert flat["rule"].tolist() == [0, 1] and flat["clip"].tolist() == [1]
    assert fitted(rows(loud=(3,)), kappa=1.5, refresh=5)["rule"].tolist() == [1.5, 5]


def test_what_is_fitted_loses_less_than_what_it_was_chosen_from() -> None:
    x = rows(loud=(3, 7))
    state = fitted(x)
    best = ClippedTokenQuantizer(TAP, SPEC, state)
    listed = best.listed(x)
    for clip in (0.6, 0.8, 1.0):
        other = round_tokens(x, listed, SPEC, torch.tensor([clip]))
        assert (best(x) - x).square().sum() <= (other - x).square().sum() + 1e-6


def test_the_clip_has_the_gradient_of_a_step_size() -> None:
    x = rows()
    module = quantizer(0.0, clip=0.7)
    module(x).square().sum().backward()
    grad = module.clip.grad
    assert grad is not None
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    step = range_of(low, high, 4)[0]
    scale = (step * 0.7).requires_grad_()
    zero = range_of(low * 0.7, high * 0.7, 4)[1]
    fake_quantize(x, scale, asymmetric(4), zero).square().sum().backward()
    assert scale.grad is not None and grad.item() == pytest.approx((scale.grad * step).sum().item(), rel=1e-5)


def test_constants_of_the_scan_stay_wide(tiny_model, images) -> None:
    calibration = quantize(
        detach(tiny_model), images, method="ouro_plus", bits="w4a3o8", scope="ssm", steps_per_block=0
    )
    widths = {path.rpartition(".")[2]: spec.bits for path, spec in calibration.plan.sites.items()}
    assert widths["tap_A"] == widths["tap_D"] == 8 and widths["tap_u"] == widths["tap_in"] == 3 and widths["tap_w"] == 4


def test_without_an_outlier_part_there_are_none(tiny_model, images) -> None:
    calibration = quantize(detach(tiny_model), images, method="ouro_plus", bits="w4a4", steps_per_block=0)
    rules = [state["rule"].tolist() for state in calibration.state.values() if "rule" in state]
    assert rules and all(rule == [0, 1] for rule in rules)
