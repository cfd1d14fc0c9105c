"""Sums of codes are exact, whatever the processor does."""

import os
import subprocess
import sys

import pytest
import torch

from ouro.quant.packed.products import accumulate, accumulate_by_floats


@pytest.mark.parametrize("size", [(1, 1, 1), (7, 1, 5), (3, 2, 1), (63, 3, 38), (197, 63, 197), (5, 4096, 3)], ids=str)
@pytest.mark.parametrize("product", [accumulate, accumulate_by_floats])
def test_sums_of_codes_are_exact(size, product):
    rows, channels, outputs = size
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-128, 128, (rows, channels), dtype=torch.int8, generator=generator)
    b = torch.randint(-128, 128, (outputs, channels), dtype=torch.int8, generator=generator)
    lowest, highest = (torch.full_like(b, end) for end in (-128, 127))
    for x, y in ((a, b), (torch.full_like(a, -128), lowest), (torch.full_like(a, -128), highest)):
        assert torch.equal(product(x, y).long(), x.long() @ y.long().T)


def test_sums_are_exact_where_the_processor_saturates():
    # oneDNN without VNNI adds pairs of products in 16 bits; only a new process takes the setting
    program = (
        "import torch; from ouro.quant.packed.products import accumulate;"
        "a = torch.full((9, 200), -128, dtype=torch.int8); b = torch.full((5, 200), 127, dtype=torch.int8);"
        "raise SystemExit(int(not torch.equal(accumulate(a, b).long(), a.long() @ b.long().T)))"
    )
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    assert subprocess.run([sys.executable, "-c", program], env=environment, timeout=120).returncode == 0
