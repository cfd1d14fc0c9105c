"""How far every family is from the official code under made-up weights: `python -m tests.parity` stores it in results/.

The tests of each family hold the same outputs, and what is inside, to 5e-5.
"""

from __future__ import annotations

import time

import torch

from ouro.jobs.provenance import run_info, values_of
from ouro.models import create_model
from ouro.paper.markdown import RESULTS
from ouro.store import write_json
from ouro.types import Report
from tests import golden

GOLDENS = {
    "vim_tiny_patch16_224": "vim_tiny", "vmamba_tiny": "vmamba_tiny", "localvim_tiny": "localvim_t",
    "localvmamba_tiny": "localvmamba_t", "mambavision_t": "mambavision_t", "zigma_zigzag8": "zigma_zigzag8_b1_pe2",
}  # fmt: skip
"""Model -> the name of its golden in tests/data."""


def row(name: str) -> dict[str, object]:
    """{model, family, largest: difference of an output, size: the largest output itself}."""
    manifest, arrays = golden.load(GOLDENS[name])
    model = create_model(name, pretrained=golden.state(manifest))
    inputs = (golden.images(),)
    if "t" in arrays:
        latents = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))
        inputs = (latents, torch.from_numpy(arrays["t"]))
    with torch.no_grad():
        ours = model(*inputs)
    official = torch.from_numpy(arrays["logits" if "logits" in arrays else "output"])
    largest = (ours - official).abs().max().item()
    return {"model": name, "family": model.info.family, "largest": largest, "size": official.abs().max().item()}


def main() -> None:
    """Measures all and writes results/parity.json."""
    begun = time.perf_counter()
    rows = [row(name) for name in GOLDENS]
    run = run_info(seed=0, started=begun)
    write_json(RESULTS / "parity.json", values_of(Report("parity", {"rows": rows}, run)))


if __name__ == "__main__":
    main()
