"""A forward recorded as a CUDA graph: one launch by the CPU, whatever the number of kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ouro.kernels.launch import KernelError, require

_WARM_UPS = 3
"""Forwards before the recording: kernels are compiled, workspaces allocated."""


class Graphed:
    """Replays a model's forward on images of one shape; made by `graphed`."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.images = images.detach().clone()
        stream = torch.cuda.Stream(images.device)
        stream.wait_stream(torch.cuda.current_stream(images.device))
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.device(images.device):
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    model(self.images)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(self._graph):
                self.output: Tensor = model(self.images)

    def __call__(self, images: Tensor) -> Tensor:
        """What the model puts out for these images. The tensor is overwritten by the next call.

        Raises:
            KernelError: images of another shape, dtype or device than the recorded ones.
        """
        for what in ("shape", "dtype", "device"):
            given, recorded = getattr(images, what), getattr(self.images, what)
            given, recorded = (tuple(x) if what == "shape" else x for x in (given, recorded))
            require(given == recorded, f"the graph was recorded for images of {what} {recorded}, these have {given}")
        self.images.copy_(images)
        return self.replay()

    def replay(self) -> Tensor:
        """The forward of the images that are there already."""
        self._graph.replay()
        return self.output


def graphed(model: nn.Module, images: Tensor) -> Graphed:
    """Records the model's forward for images of this shape.

    Raises:
        KernelError: the images are on no CUDA device, or the model does something that no graph holds.
    """
    require(
        images.device.type == "cuda",
        f"graphed cannot run; a CUDA graph takes images on a CUDA device, these are on {images.device}",
    )
    try:
        return Graphed(model, images)
    except RuntimeError as error:
        torch.cuda.synchronize(images.device)
        raise KernelError(f"graphed cannot run; the forward cannot be recorded: {error}") from error
