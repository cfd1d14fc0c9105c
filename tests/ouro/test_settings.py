"""What a class says of its options, and what is refused of what is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest

from ouro.settings import Least, check_options, settings


@dataclass(frozen=True)
class Method:
    """A method.

    steps: how many. first: where it begins. rate: how fast.
    """

    steps: Annotated[int, Least(1)] = 3
    first: Annotated[int, Least(2)] | None = None
    rate: Annotated[float | None, Least(0)] = 0.5


def test_a_bound_and_none_stand_in_any_order() -> None:
    steps, first, rate = settings(Method)
    assert (steps.kind, steps.least, steps.optional, steps.help) == (int, 1, False, "how many.")
    assert (first.kind, first.least, first.optional, first.default) == (int, 2, True, None)
    assert (rate.kind, rate.least, rate.optional, rate.default) == (float, 0, True, 0.5)


@pytest.mark.parametrize(
    "given",
    [{"steps": np.int64(4)}, {"rate": np.float32(0.25)}, {"rate": 1}, {"first": None}, {"first": 2}],
    ids=str,
)
def test_what_fits_is_taken(given) -> None:
    check_options("method", "method", Method, given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "steps is 0, expected 1 or more"),
        ({"steps": 2.0}, "steps is 2.0, expected a whole number"),
        ({"steps": True}, "steps is True, expected a whole number"),
        ({"steps": None}, "steps is None, expected a whole number"),
        ({"first": 1}, "first is 1, expected 2 or more"),
        ({"rate": float("nan")}, "rate is nan, expected a finite number"),
        ({"pace": 1}, "method 'method' has no option 'pace'; known: steps, first, rate"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_in_one_line(given, message) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_options("method", "method", Method, given)
