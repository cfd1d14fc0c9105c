"""K scales: a search finds what trying everything finds, and makes no scale worse."""

import pytest
import torch

from ouro.quant.grid import fake_quantize, symmetric
from ouro.quant.search.candidates import candidates, initial, power_of_two, with_initial
from ouro.quant.search.clusters import clusters
from ouro.quant.search.kscale import search_channels, search_tokens, search_weight
from tests.testing import assert_close


def rounded(x, scale, bits):
    return fake_quantize(x, scale, symmetric(bits, narrow=False))


def cosines(x, scale, bits):
    """Cosine over channels per sample and time step, 0 for what has no length."""
    return torch.cosine_similarity(x.double(), rounded(x, scale, bits).double(), dim=-1)


@pytest.fixture(scope="module")
def rows():
    """Two chunks of 3 and 5 samples, 7 time steps and 12 channels of very different sizes."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.logspace(-1, 1, 7)[:, None] * torch.logspace(0, 1.5, 12)[torch.randperm(12, generator=generator)]
    return [torch.randn(b, 7, 12, generator=generator) * sizes for b in (3, 5)]


@pytest.mark.parametrize("search", [search_tokens, search_channels])
def test_nothing_that_was_seen_clips_where_it_must_not(search) -> None:
    x = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    # one token in 24, far beyond the others: a mean cosine over tokens gives it up
    x[1, 5] *= 40
    labels = torch.zeros(8, dtype=torch.int64)
    (free,), (kept,) = search([x], labels, 4), search([x], labels, 4, least=1.0)
    peak = initial(x.abs().amax()[None], 4)[0]
    assert free < 0.5 * peak <= kept


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("bits", (4, 8))
def test_one_cluster_is_the_search_per_tensor(rows, bits, tie):
    every = torch.cat(rows)
    tried = with_initial(initial(every.abs().max(), bits))
    scores = torch.stack([cosines(every, scale, bits).mean() for scale in tried])
    best = tried[scores.argmax()][None]
    assert_close(search_tokens(rows, torch.zeros(7, dtype=torch.int64), bits, tie=tie), best)
    assert_close(search_channels(rows, torch.zeros(12, dtype=torch.int64), bits, tie=tie), best)


@pytest.mark.parametrize("bits", (3, 8))
def test_token_search_tries_every_candidate_of_every_cluster(rows, bits):
    every = torch.cat(rows)
    labels = clusters(every.abs().mean((0, 2)), 3)
    scales = search_tokens(rows, labels, bits, tie=False)
    for k in range(3):
        own = every[:, labels == k]
        tried = with_initial(initial(own.abs().max(), bits))
        scores = torch.stack([cosines(own, scale, bits).mean() for scale in tried])
        assert_close(scales[k], tried[scores.argmax()])
    ratio = (search_tokens(rows, labels, bits) / scales[0]).log2()
    assert_close(ratio, ratio.round())


def test_a_scale_per_token_is_at_least_as_good_as_four(rows):
    every = torch.cat(rows)
    sizes = every.abs().mean((0, 2))
    four = clusters(sizes, 4)
    own = clusters(sizes, 7)
    assert own.unique().tolist() == list(range(7))
    scales = search_tokens(rows, own, 4, tie=False)[own]
    shared = search_tokens(rows, four, 4, tie=False)[four]
    better, worse = (cosines(every, s[:, None], 4).mean(0) for s in (scales, shared))
    # both look at candidates of their own: a shared one may lie a little closer to the optimum
    assert (better >= worse - 2e-3).all() and better.mean() > worse.mean()


def channel_score(x, labels, scales, bits):
    return cosines(x, scales[labels], bits).mean()


@pytest.mark.parametrize("tie", [True, False])
def test_channel_search_on_sums_is_the_search_on_rounded_tensors(rows, tie):
    every, bits = torch.cat(rows), 4
    labels = clusters(every.abs().mean((0, 1)), 3)
    starts = torch.stack([initial(every[..., labels == k].abs().max(), bits) for k in range(3)])
    scales = starts.clone()
    for _ in range(2):
        for k in range(3):
            now = channel_score(every, labels, scales, bits)
            for tried in candidates(starts[k]):
                changed = scales.clone()
                changed[k] = tried
                score = channel_score(every, labels, changed, bits)
                if score > now:
                    now, scales = score, changed
        if tie:
            scales = power_of_two(scales)
    assert_close(search_channels(rows, labels, bits, rounds=2, tie=tie), scales)


@pytest.mark.parametrize("bits", (2, 3, 4, 8))
def test_no_search_makes_a_scale_worse(rows, bits):
    every = torch.cat(rows)
    labels = clusters(every.abs().mean((0, 2)), 4)
    first = torch.stack([initial(every[:, labels == k].abs().max(), bits) for k in range(4)])
    scales = search_tokens(rows, labels, bits, tie=False)
    before, after = (cosines(every, s[labels][:, None], bits).mean() for s in (first, scales))
    assert after >= before
    labels = clusters(every.abs().mean((0, 1)), 4)
    first = torch.stack([initial(every[..., labels == k].abs().max(), bits) for k in range(4)])
    scales = search_channels(rows, labels, bits, tie=False)
    assert channel_score(every, labels, scales, bits) >= channel_score(every, labels, first, bits)


def test_values_on_a_grid_are_represented_exactly():
    x = 0.3 * torch.arange(-8, 8).float().view(1, 2, 8)
    # a cosine is the same for scales with the same codes: their first one is as good as 0.3 itself
    scales = search_tokens([x], torch.zeros(2, dtype=torch.int64), 4)
    assert_close(cosines(x, scales, 4), torch.ones(1, 2, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("search", [search_tokens, search_channels])
def test_zeros_and_empty_clusters_get_scale_one(search):
    labels = torch.tensor([0, 0, 2])
    assert search([torch.zeros(2, 3, 3)], labels, 8).tolist() == [1, 1, 1]
    x = torch.ones(2, 3, 3)
    scales = search([x], labels, 8, tie=False)
    assert scales[1] == 1 and (scales > 0).all()


def test_search_does_not_depend_on_the_chunks(rows):
    labels = torch.tensor([0, 1] * 3 + [0])
    assert torch.equal(search_tokens(rows, labels, 4), search_tokens([torch.cat(rows)], labels, 4))
    labels = torch.tensor([0, 1, 2] * 4)
    assert torch.equal(search_channels(rows, labels, 4), search_channels([torch.cat(rows)], labels, 4))


def test_sampled_search_sees_every_time_step_and_comes_close(monkeypatch):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(64, 9, 16, generator=generator) * torch.logspace(-2, 2, 9)[:, None]
    labels = torch.arange(9)
    whole = search_tokens([x], labels, 4, tie=False)
    monkeypatch.setattr("ouro.quant.search.kscale.TOKENS", 5)
    sampled = search_tokens([x], labels, 4, tie=False)
    # one token per step is left, and each step has a scale of its own size
    assert (sampled / whole).log2().abs().max() < 2
    monkeypatch.setattr("ouro.quant.search.kscale.TOKENS", 200)
    sampled = search_tokens([x], labels, 4, tie=False)
    full, part = (cosines(x, s[:, None], 4).mean() for s in (whole, sampled))
    assert full - part < 2e-3


@pytest.mark.parametrize("bits", (3, 8))
def test_weight_search_tries_every_candidate(rows, bits):
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(6, 12, generator=generator) * torch.logspace(-1, 0, 6)[:, None]
    x = torch.cat(rows).flatten(0, 1)
    target = (x @ weight.T).double()
    tried = with_initial(initial(weight.abs().max(), bits))
    scores = [torch.cosine_similarity(target, (x @ rounded(weight, s, bits).T).double()).mean() for s in tried]
    scale = search_weight(weight, rows, bits)
    score = torch.cosine_similarity(target, (x @ rounded(weight, scale, bits).T).double()).mean()
    assert scale in tried and score == pytest.approx(max(scores).item(), abs=1e-7)
    scales = search_weight(weight, rows, bits, per_channel=True)
    assert scales.shape == (6,)
    for row, scale, want in zip(weight, scales, target.T, strict=True):
        errors = torch.stack(
            [(x @ rounded(row, s, bits) - want).square().sum() for s in with_initial(initial(row.abs().max(), bits))]
        )
        assert (x @ rounded(row, scale, bits) - want).square().sum() == pytest.approx(errors.min().item(), rel=1e-3)
    assert search_weight(torch.zeros(6, 12), rows, bits).tolist() == [1]
    assert search_weight(torch.zeros(6, 12), rows, bits, per_channel=True).tolist() == [1] * 6


ZEROS = torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: search_tokens([torch.tensor([1.0, torch.nan]).view(1, 1, 2)], ZEROS[:1], 8),
            "the greatest |x| is not finite; look for NaN or infinity in what was recorded",
        ),
        (
            lambda: search_channels([torch.full((1, 1, 3), torch.inf)], ZEROS, 8),
            "the greatest |x| is not finite; look for NaN or infinity in what was recorded",
        ),
        (lambda: search_tokens([torch.ones(1, 2, 3)], ZEROS, 8), "labels are (3,), expected (2,): one per time step"),
        (lambda: search_channels([torch.ones(1, 3, 2)], ZEROS, 8), "labels are (3,), expected (2,): one per channel"),
        (lambda: search_tokens([], ZEROS, 8), "there are no rows to search on; record at least one chunk [b l c]"),
        (
            lambda: search_weight(torch.ones(2, 3), [], 8),
            "there are no inputs to search on; record at least one chunk [b l c]",
        ),
        (
            lambda: search_weight(torch.ones(2, 3), [torch.ones(1, 2, 4)], 8),
            "inputs are (1, 2, 4), expected (b, l, c) with c = 3",
        ),
        (
            lambda: search_weight(torch.ones(2, 3), [torch.full((1, 2, 3), torch.nan)], 8),
            "inputs hold values that are not finite; look for NaN or infinity in what was recorded",
        ),
        (
            lambda: search_weight(torch.full((2, 3), torch.nan), [torch.ones(1, 2, 3)], 8),
            "the greatest |x| is not finite; look for NaN or infinity in what was recorded",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == message
