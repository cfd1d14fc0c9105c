"""The divided state is the same model, its factors are those of the paper, and the searches do what they say."""

from dataclasses import replace

import pytest
import torch

from ouro.quant.grid import fake_quantize, symmetric
from ouro.quant.search.candidates import initial, with_initial
from ouro.quant.search.reparam import Factors, factors, reparameterize, search_shared, search_steps, state_error
from ouro.quant.search.states import largest_state, mean_state
from ouro.scan import selective_scan
from ouro.scan.discretize import discretize, per_channel
from ouro.types import ScanInputs, ScanRounding, StateQuantizer
from tests.testing import assert_close


def made_up(batch=4, channels=24, steps=20, states=5, groups=None, seed=0):
    """Operands whose states differ widely in size between channels, steps and states."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    sizes = torch.logspace(-1.5, 1.5, channels)[torch.randperm(channels, generator=generator)]
    matrix = (batch, states, steps) if groups is None else (batch, groups, states, steps)
    return ScanInputs(
        u=normal(batch, channels, steps) * sizes[:, None],
        delta=normal(batch, channels, steps).mul(0.7).sub(2).exp(),
        A=-torch.rand(channels, states, generator=generator).mul(3).exp(),
        B=normal(*matrix) * torch.logspace(-1, 1, states)[:, None],
        C=normal(*matrix) * torch.logspace(1, -1, states)[:, None],
        D=normal(channels),
    )


def some_factors(inputs, seed=1):
    generator = torch.Generator().manual_seed(seed)
    sizes = inputs.A.shape[0], inputs.u.shape[2], inputs.A.shape[1]
    return Factors(*(torch.randn(size, generator=generator).mul(0.7).exp() for size in sizes))


def recur(A_bar, drive, C):
    """(h [b e l n], y [b e l]) of a scan without a skip."""
    h, states = torch.zeros_like(drive[:, :, 0]), []
    for t in range(drive.shape[2]):
        h = A_bar[:, :, t] * h + drive[:, :, t]
        states.append(h)
    states = torch.stack(states, 2)
    return states, (states * per_channel(C, drive.shape[1])).sum(-1)


def all_states(inputs):
    return selective_scan(inputs, keep_states=True).h


@pytest.mark.parametrize("groups", [None, 3])
def test_reparameterized_scan_is_the_same_scan(groups):
    inputs = made_up(groups=groups)
    A_bar, B_bar = discretize(inputs)
    drive = B_bar * inputs.u.unsqueeze(-1)
    r = some_factors(inputs)
    h, y = recur(A_bar, drive, inputs.C)
    small_h, small_y = recur(*reparameterize(A_bar, drive, inputs.C, r))
    assert_close(small_h * r.rank1(), h)
    assert_close(r.channel[:, None] * small_y, y, rtol=1e-4, atol=1e-5 * y.abs().max().item())


def test_factors_have_equal_means_and_powers_of_their_spread():
    H = mean_state([made_up(batch=8)])
    sizes = H.mean((1, 2)), H.mean((0, 2)), H.mean((0, 1))
    r = factors(H)
    spread = torch.stack([size.std() for size in sizes])
    for size, factor, share in zip(sizes, (r.channel, r.step, r.state), spread / spread.sum(), strict=True):
        assert_close(size.mean(), H.mean())
        power = factor.log() / size.log()
        assert (power - share).abs().max() < 1e-3
        # as a released triplet is checked: r^(1/p) has the same mean for all three
        assert_close((factor.double() ** (1 / share.double())).mean().float(), H.mean(), rtol=1e-3)


def test_factors_of_constants_of_zeros_and_of_single_axes():
    r = factors(torch.full((3, 4, 2), 8.0))
    assert_close(r.rank1(), torch.full((3, 4, 2), 8.0))
    r = factors(torch.zeros(3, 4, 2))
    assert_close(r.rank1(), torch.ones(3, 4, 2))
    H = torch.tensor([1.0, 2.0, 6.0])
    r = factors(H.view(3, 1, 1))
    assert_close(r.channel, H)
    assert r.step.tolist() == r.state.tolist() == [1]
    assert factors(torch.tensor([0.0, 2.0]).view(2, 1, 1)).channel.tolist() == [1, 2]


def test_size_of_states_does_not_depend_on_the_chunks():
    inputs = made_up(batch=7)
    h = all_states(inputs).abs()
    chunks = [replace(inputs, **{x: getattr(inputs, x)[part] for x in ("u", "delta", "B", "C")})
              for part in (slice(0, 5), slice(5, 7))]  # fmt: skip
    assert_close(mean_state(chunks), h.mean(0))
    assert torch.equal(largest_state(chunks), h.amax(0))
    r = factors(mean_state(chunks))
    assert torch.equal(search_steps(chunks, r, 4), search_steps([inputs], r, 4))
    assert torch.equal(search_shared(chunks, r, 4), search_shared([inputs], r, 4))


def greedy_by_definition(inputs, unit, bits):
    """Steps [l], by a loop over tokens and candidates."""
    grid, steps = symmetric(bits, narrow=False), []
    A_bar, B_bar = discretize(inputs)
    drive, C = B_bar * inputs.u.unsqueeze(-1), per_channel(inputs.C, inputs.u.shape[1])
    exact = rounded = torch.zeros_like(drive[:, :, 0])
    L = inputs.u.shape[2]
    for t in range(L):
        exact, rounded = (A_bar[:, :, t] * h + drive[:, :, t] for h in (exact, rounded))
        step = initial((exact.abs() / unit).amax(), bits)
        if t + 1 < L:
            tried = with_initial(step)
            # [i b e n], the float state last
            states = torch.stack([*(fake_quantize(rounded, s * unit, grid) for s in tried), exact])
            y = ((A_bar[:, :, t + 1] * states + drive[:, :, t + 1]) * C[:, :, t + 1]).sum(-1).double()
            scores = [torch.cosine_similarity(y[-1], guess).mean() for guess in y[:-1]]
            step = tried[torch.stack(scores).argmax()]
            rounded = fake_quantize(rounded, step * unit, grid)
        steps.append(step)
    return torch.stack(steps)


@pytest.mark.parametrize("bits", (3, 4, 6))
@pytest.mark.parametrize("groups", [None, 2])
def test_greedy_search_is_its_definition(bits, groups):
    inputs = made_up(batch=3, channels=10, steps=7, states=3, groups=groups, seed=bits)
    r = some_factors(inputs)
    expected = greedy_by_definition(inputs, r.channel[:, None] * r.state, bits)
    assert_close(search_steps([inputs], r, bits), expected, rtol=1e-5, atol=0)
    expected = greedy_by_definition(inputs, torch.ones(10, 3), bits)
    assert_close(search_steps([inputs], None, bits), expected, rtol=1e-5, atol=0)


def y_score(inputs, quantizer):
    """Mean cosine over channels of the scan's output without the skip, in floats and with rounded states."""
    inputs = replace(inputs, D=None)
    y = selective_scan(inputs, rounding=ScanRounding(h=quantizer)).y
    return torch.cosine_similarity(selective_scan(inputs).y, y, dim=1).mean()


@pytest.mark.parametrize("bits", (3, 4, 8))
def test_shared_search_comes_close_to_the_best_and_never_below_the_first(bits):
    inputs = made_up()
    r = factors(mean_state([inputs]))
    first = initial((largest_state([inputs]) / r.rank1()).amax(), bits)
    scale = search_shared([inputs], r, bits)
    assert scale.shape == (1,) and scale in with_initial(first)

    def score(s):
        return y_score(inputs, StateQuantizer(s * r.step, bits, r.channel, r.state))

    assert score(scale) >= score(first)
    assert score(scale) >= max(score(s) for s in with_initial(first)[::4]) - 2e-3
    plain = search_shared([inputs], None, bits)
    assert y_score(inputs, StateQuantizer(plain, bits)) >= y_score(
        inputs, StateQuantizer(initial(largest_state([inputs]).amax(), bits)[None], bits)
    )


@pytest.mark.parametrize("bits", (6, 8))
@pytest.mark.parametrize("seed", (3, 4))
def test_divided_states_lose_less_than_one_scale_per_tensor(bits, seed):
    inputs = made_up(batch=8, seed=seed)
    scans, r = [inputs], factors(mean_state([inputs]))
    size = largest_state(scans)
    naive = StateQuantizer(initial(size.amax(), bits)[None], bits)
    divided = StateQuantizer(initial((size / r.rank1()).amax(), bits) * r.step, bits, r.channel, r.state)
    assert 0 < state_error(scans, divided) < 0.8 * state_error(scans, naive)
    # a search is for y, at the expense of the largest states, which it clips
    plain = StateQuantizer(search_shared(scans, None, bits), bits)
    shared = StateQuantizer(search_shared(scans, r, bits) * r.step, bits, r.channel, r.state)
    steps = StateQuantizer(search_steps(scans, r, bits), bits, r.channel, r.state)
    scores = [y_score(inputs, quantizer) for quantizer in (naive, plain, shared, steps)]
    assert scores[0] < scores[1] < scores[2] and scores[1] < scores[3]


def test_state_error_is_that_of_the_carried_state():
    inputs = made_up(batch=5, channels=6, steps=9)
    quantizer = StateQuantizer(torch.tensor([0.05]), 5, torch.linspace(0.5, 2, 6))
    grid, scale = symmetric(5, narrow=False), 0.05 * torch.linspace(0.5, 2, 6)[:, None]
    A_bar, B_bar = discretize(inputs)
    drive = B_bar * inputs.u.unsqueeze(-1)
    h, carried = torch.zeros(5, 6, 5), []
    for t in range(9):
        h = fake_quantize(A_bar[:, :, t] * h + drive[:, :, t], scale, grid)
        carried.append(h)
    exact = all_states(inputs)
    expected = (torch.stack(carried, 2) - exact).norm() / exact.norm()
    assert state_error([inputs], quantizer) == pytest.approx(expected.item(), rel=1e-4)
    assert state_error([inputs], None) == 0


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 5, 2), (2, 5, 1, 2), (1, 3, 4, 1)])
def test_searches_serve_degenerate_scans(shape):
    inputs = made_up(*shape)
    r = factors(mean_state([inputs]))
    for r_or_none in (r, None):
        steps = search_steps([inputs], r_or_none, 8)
        assert steps.shape == (shape[2],) and (steps > 0).all() and steps.isfinite().all()
        shared = search_shared([inputs], r_or_none, 8)
        assert shared.shape == (1,) and shared > 0 and shared.isfinite()
    peak = largest_state([inputs])[:, -1] / (r.channel[:, None] * r.state)
    assert_close(search_steps([inputs], r, 8)[-1], initial(peak.amax(), 8))


def test_zeros_get_step_one():
    inputs = replace(made_up(), u=torch.zeros(4, 24, 20))
    r = factors(mean_state([inputs]))
    assert search_steps([inputs], r, 8).tolist() == [1] * 20
    assert search_shared([inputs], r, 8).tolist() == [1]
    assert state_error([inputs], StateQuantizer(torch.ones(1), 8)) == 0


def spoiled():
    inputs = made_up()
    return [replace(inputs, u=inputs.u.masked_fill(inputs.u == inputs.u.max(), torch.nan))]


NOT_FINITE = "the operands of the scan are not all finite; look for NaN or infinity in what was recorded"
NO_SCANS = "there are no scans to look at; record at least one"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: factors(torch.ones(1, 2, 2, 2)),
            "H is (1, 2, 2, 2), expected a non-empty (e, l, n): average over samples first",
        ),
        (
            lambda: factors(-torch.ones(2, 2, 2)),
            "H holds values that are negative or not finite; expected the mean of |h|",
        ),
        (lambda: search_steps(spoiled(), None, 8), NOT_FINITE),
        (lambda: search_shared(spoiled(), None, 8), NOT_FINITE),
        (lambda: state_error(spoiled(), None), NOT_FINITE),
        (lambda: search_steps([], None, 8), NO_SCANS),
        (lambda: mean_state([]), NO_SCANS),
        (lambda: search_steps([made_up()], None, 8, samples=0), "samples is 0, expected at least 1"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == message
