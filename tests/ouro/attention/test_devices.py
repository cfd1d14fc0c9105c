"""Maps and scores of scans on another device, masks being on the CPU."""

import copy

import torch

from ouro.attention import attention_map, h_p
from ouro.attention.implicit import alpha
from ouro.attention.maps import by_mixer
from ouro.attention.patched import alpha_p
from ouro.attention.survey import neighborhoods, score, survey
from ouro.taps import record
from tests.devices import assert_same, both


def test_every_map_and_score_is_that_of_the_cpu(tiny):
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    masks = torch.zeros(2, 16, 16)
    masks[:, 4:12, 4:12] = 1

    def run(device):
        model = copy.deepcopy(tiny).to(device)
        with torch.no_grad(), record(model, "*.scans.*") as trace:
            model(images.to(device))
        layers = list(by_mixer(trace.scans).values())
        maps = dict(survey(layers, 3, "delta"))
        scan = trace.scans[-1]
        single = {
            "per channel": alpha(scan, None), "some channels": alpha(scan, torch.tensor([3, 1])),
            "patched, per channel": alpha_p(scan, 3, "uniform", None, class_token=True), "h_p": h_p(scan, 3),
            "query": attention_map(layers[0], "h", "query", query=5).weights,
        }  # fmt: skip
        return {
            "maps": {key: x.cpu() for key, x in maps.items()},
            "neighborhoods": {key: x.cpu() for key, x in neighborhoods(layers, [(3, "delta"), (3, "uniform")])},
            "single": {key: x.cpu() for key, x in single.items()},
            "scores": score(maps, masks),
        }

    assert_same(*both(run))
