"""A kernel for the notebooks of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.notebooks.running import Kernel


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path_factory.mktemp("jupyter"))
    yield kernel
    kernel.close()
