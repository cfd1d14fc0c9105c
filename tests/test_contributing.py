"""What CONTRIBUTING.md says runs: each example is put in its place, its line is added, and its check has to hold."""

from __future__ import annotations

import pytest

from ouro import kernels
from ouro.registry import DATASETS, GENERATORS, MODELS, QUANTIZERS, TASKS
from tests.growing import PAGE, Example, examples, grown

EXAMPLES = examples()
KINDS = {"A quantizer", "A generator", "A data set", "A model family", "A task", "A kernel"}
REGISTERED = {
    **dict.fromkeys(("power2",), QUANTIZERS),
    "flat": GENERATORS,
    "flags": DATASETS,
    "cross_nano": MODELS,
    "top5": TASKS,
}


def test_every_kind_has_an_example() -> None:
    assert set(EXAMPLES) == KINDS
    for example in EXAMPLES.values():
        assert example.files and example.lines and len(example.checks) == 1 and "assert" in example.checks[0]
        assert not [path for path in example.files if (PAGE.parent / path).exists()]


@pytest.mark.parametrize("heading", sorted(KINDS))
def test_an_example_does_what_it_says(heading, tmp_path) -> None:
    with grown(EXAMPLES[heading], tmp_path):
        exec(compile(EXAMPLES[heading].checks[0], f"CONTRIBUTING.md, {heading}", "exec"), {})
    # and nothing is left of it
    assert all(name not in registry for name, registry in REGISTERED.items()) and "gated" not in kernels.NAMES


def test_an_example_that_is_wrong_fails(tmp_path) -> None:
    broken = Example(
        {"ouro/data/nothing.py": "x = 1\n"}, [("ouro/registry.py", 'DATASETS.add("nothing", "ouro.data.nothing:Y")')]
    )
    with grown(broken, tmp_path), pytest.raises(AttributeError, match="has no attribute 'Y'"):
        DATASETS.get("nothing")
    assert "nothing" not in DATASETS
