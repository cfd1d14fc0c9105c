"""Values take the place of assignments, and of nothing else."""

from __future__ import annotations

import pytest

from tests.notebooks.running import with_values


def test_assignments_get_other_values():
    source = "N = 16  # scenes\nNUM = 2\nSETS = ((1, 2),)"
    assert with_values(source, {"N": 4, "SETS": [["a", 1]]}) == "N = 4\nNUM = 2\nSETS = (('a', 1),)"


def test_a_name_that_is_not_assigned_is_refused():
    with pytest.raises(ValueError, match="LIMIT is assigned 0 times"):
        with_values("B, L = 1, 2", {"LIMIT": 4})
