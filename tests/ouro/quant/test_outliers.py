"""The outlier list: its rule, its independence of other samples, and its compiled form against the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ouro.quant import compiled_outliers
from ouro.quant.outliers import (
    outlier_list,
    outlier_list_reference,
    quantize_with_outliers,
    round_two_ways,
    span,
    threshold,
)
from ouro.quant.rules import OutlierRule
from tests.testing import assert_close

RULES = [
    pytest.param(OutlierRule(4, 8), id="symmetric-o8"),
    pytest.param(OutlierRule(3, 16), id="symmetric-o16"),
    pytest.param(OutlierRule(4, 8, signed=False, kappa=4.0), id="asymmetric-o8"),
    pytest.param(OutlierRule(8, 16, signed=False, refresh=7), id="asymmetric-o16"),
]
LENGTHS = (1, 9, 10, 63, 197)


def heavy(shape, seed=0):
    """Rows with a few loud channels that change from step to step."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    return x * (1 + 20 * (torch.rand(shape, generator=generator) > 0.98))


def parameters(x, rule):
    """Steps and zero points that make some steps overflow and others not."""
    scale = span(x[:1], rule.signed)[0].clamp(min=1e-3) / rule.reach * 0.6
    return scale, None if rule.signed else torch.full_like(scale, rule.grid.high // 2)


@pytest.mark.parametrize("kappa, share, tolerance", [(3.0, 0.048, 0.003), (4.0, 0.007, 0.001)])
def test_share_of_listed_channels_in_gaussian_noise(kappa, share, tolerance):
    x = torch.randn(4, 200, 1024, generator=torch.Generator().manual_seed(0))
    listed = outlier_list(x, OutlierRule(4, 8, kappa=kappa)).float().mean()
    assert abs(listed - share) < tolerance


@pytest.mark.parametrize("L", LENGTHS)
def test_list_grows_inside_a_window_and_is_then_cleared(L):
    listed = outlier_list(heavy((3, L, 40)), OutlierRule(4, 8))
    for t in range(1, L):
        if t % 10:
            assert (listed[:, t] | ~listed[:, t - 1]).all()
    calm = torch.ones(1, L, 40)
    calm[:, 0, 5] = 100
    assert outlier_list(calm, OutlierRule(4, 8)).sum() == min(10, L)


def test_list_grows_only_where_the_inlier_range_is_exceeded():
    x = torch.ones(2, 3, 40)
    x[0, 1, 7] = x[1, 1, 7] = 5
    # sample 0 fits 7 codes of 0.8, sample 1 does not after it is made louder
    x[1, 1, 7] = 6
    listed = outlier_list(x, OutlierRule(4, 8), scale=torch.full((3,), 0.8))
    assert listed[0].sum() == 0
    assert listed[1].nonzero().tolist() == [[1, 7], [2, 7]]


def test_threshold_looks_at_the_remaining_channels_only():
    x = torch.tensor([[100.0, 1.0, -2.0, 3.0]])
    listed = torch.tensor([[True, False, False, False]])
    assert_close(threshold(x, listed, 3.0), torch.tensor([[2 + 3 * 1.0]], dtype=torch.float64), name="threshold")


def test_shapes_that_are_no_series_are_refused():
    x, rule = torch.rand(2, 12, 5), OutlierRule(4, 8)
    with pytest.raises(ValueError, match=r"^x is \(12, 5\), expected \(b, l, c\)$"):
        outlier_list(x[0], rule)
    for name in ("scale", "theta"):
        with pytest.raises(ValueError, match=rf"^{name} is \(5,\), expected \(12,\), one per time step of x$"):
            outlier_list(x, rule, **{name: torch.ones(5)})


def test_a_threshold_of_too_few_channels_lists_nothing():
    assert not outlier_list(torch.rand(2, 12, 1), OutlierRule(4, 8)).any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("L", LENGTHS)
@pytest.mark.parametrize("given_theta", [False, True], ids=["online", "calibrated"])
def test_compiled_equals_definition_bit_for_bit(rule, L, given_theta):
    x = heavy((3, L, 37), seed=L)
    scale, zero = parameters(x, rule)
    theta = torch.full((L,), 2.5) if given_theta else None
    y, listed = compiled_outliers.run(x, rule, scale, zero, theta)
    expected = outlier_list_reference(x, rule, scale=scale, theta=theta)
    assert torch.equal(listed, expected)
    assert torch.equal(y, round_two_ways(x, expected, rule, scale, zero))
    assert torch.equal(outlier_list(x, rule, theta=theta), outlier_list_reference(x, rule, theta=theta))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 25), st.integers(1, 70), st.integers(1, 12), st.floats(0.5, 5), st.booleans(),
    st.integers(2, 8), st.integers(0, 10**6),
)  # fmt: skip
def test_compiled_equals_definition_everywhere(batch, L, channels, refresh, kappa, signed, bits, seed):
    x = heavy((batch, L, channels), seed)
    rule = OutlierRule(bits, 8, signed, kappa, refresh)
    scale, zero = parameters(x, rule)
    y, listed = compiled_outliers.run(x, rule, scale, zero, None)
    expected = outlier_list_reference(x, rule, scale=scale)
    assert torch.equal(listed, expected)
    assert torch.equal(y, round_two_ways(x, expected, rule, scale, zero))


@pytest.mark.parametrize("rule", RULES)
def test_compiled_equals_definition_with_any_number_of_threads(rule):
    x = heavy((5, 63, 40))
    scale, zero = parameters(x, rule)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(compiled_outliers.run(x, rule, scale, zero, None)[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["compiled", "definition"])
def test_a_sample_does_not_depend_on_its_batch(rule, dtype):
    x = heavy((8, 63, 48)).to(dtype)
    # one loud sample among calm ones, which the official rule lets change all of them
    x[3] *= 50
    scale, zero = (None if v is None else v.to(dtype) for v in parameters(x.float(), rule))
    together, _ = quantize_with_outliers(x, rule, scale, zero)
    alone = torch.cat([quantize_with_outliers(row[None], rule, scale, zero)[0] for row in x])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("L", (10, 13))
def test_the_input_is_not_written_to(rule, L):
    x = heavy((2, L, 16))
    copy, version = x.clone(), x._version
    scale, zero = parameters(x, rule)
    y, _ = quantize_with_outliers(x, rule, scale, zero)
    assert torch.equal(x, copy) and x._version == version and y.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("rule", RULES)
def test_codes_are_bounded(rule):
    x = heavy((2, 33, 64))
    scale, zero = parameters(x, rule)
    y, listed = quantize_with_outliers(x, rule, scale, zero)
    levels = rule.grid.high - rule.grid.low + 1
    for t in range(33):
        assert len(y[:, t][~listed[:, t]].unique()) <= levels
    if rule.outlier_grid is None:
        assert torch.equal(y[listed], x[listed])
    else:
        step = span(x.masked_fill(~listed, 0), rule.signed)[..., None] / (127 if rule.signed else 255)
        assert ((y - x).abs() <= 0.51 * step)[listed].all()


@pytest.mark.parametrize("rule", RULES)
def test_gradients_pass_outliers_and_clip_inliers(rule):
    x = heavy((2, 23, 32)).requires_grad_()
    scale, zero = parameters(x.detach(), rule)
    scale.requires_grad_()
    y, listed = quantize_with_outliers(x, rule, scale, zero)
    y.sum().backward()
    shift = 0 if zero is None else zero[:, None]
    codes = x.detach() / scale.detach()[:, None] + shift
    inside = (codes >= rule.grid.low) & (codes <= rule.grid.high)
    assert torch.equal(x.grad.bool(), listed | inside)
    assert scale.grad.shape == (23,) and (scale.grad != 0).all()


def test_nan_stays_nan_and_spoils_no_other_sample():
    x = heavy((2, 10, 16))
    x[0, 3, 2] = torch.nan
    rule = OutlierRule(4, 8)
    y, _ = quantize_with_outliers(x, rule, torch.full((10,), 0.3))
    assert y[0, 3, 2].isnan() and y[1].isfinite().all()


def test_tables_must_fit_the_steps():
    with pytest.raises(ValueError, match=r"^a table of \(9,\) numbers cannot serve 10 time steps$"):
        compiled_outliers.run(torch.zeros(1, 10, 4), OutlierRule(4, 8), torch.ones(9), None, None)
