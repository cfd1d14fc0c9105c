"""Who looks at a model leaves it as it was: what a model in training is told by its batches is not for those who judge it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import ouro
from ouro.evaluate.accuracy import outcomes
from ouro.evaluate.familiarity import familiarity
from ouro.evaluate.fidelity import fidelity
from ouro.evaluate.quality import coverage, features, similarity_density
from ouro.evaluate.sensitivity import sensitivity
from ouro.gen.synthesize import recognized
from ouro.progress import finish
from ouro.quant.audit import audit
from ouro.vision import judging
from tests.zoo import small


@pytest.fixture
def model():
    # its blocks hold batch norms
    return small("mambavision_t")


def _sensitive(model: Any, x: torch.Tensor) -> Any:
    calibration = ouro.quantize(model, x, method="minmax", bits="w4a4", scope="full")
    return finish(sensitivity(model, calibration, x)).whole


LOOKS: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "outcomes": lambda model, x: torch.cat(list(outcomes(model, [(x, torch.arange(4))]))),
    "synthesize": lambda model, x: (
        ouro.synthesize(model, method="noise", num=2, steps=2).images
        + ouro.synthesize(model, method="class", num=2, steps=2).images
    ),
    "recognized": lambda model, x: recognized(model, x, torch.arange(4)),
    "quantize": lambda model, x: ouro.quantize(model, x, method="minmax").provenance["blocks"],
    "sensitivity": _sensitive,
    "fidelity": lambda model, x: fidelity(model, small("mambavision_t", seed=1), x)["logits"],
    "features": features,
    "coverage": lambda model, x: coverage(model, x, x.flip(0)),
    "similarity_density": similarity_density,
    "familiarity": lambda model, x: familiarity(model, x, x.flip(0)).limit,
    "audit": lambda model, x: audit(model, x)["sites"],
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_model_in_training_is_judged_in_eval_mode_and_goes_on_training(model, look):
    x = torch.randn(4, *model.info.input_size, generator=torch.Generator().manual_seed(0))
    wanted = LOOKS[look](model, x)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    actual = LOOKS[look](model.train(), x)
    assert torch.equal(actual, wanted) if isinstance(wanted, torch.Tensor) else actual == wanted
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_judging_gives_every_module_its_own_mode_back(model):
    model.head.train()
    with pytest.raises(KeyError), judging(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [path for path, module in model.named_modules() if module.training and "." not in path] == ["head"]
