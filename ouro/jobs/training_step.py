"""One step of a training: forward, loss, gradients, AdamW, running average. On a CUDA device it is one recorded graph.

A small model keeps a GPU waiting for its launches; replayed as a graph a step is one. What changes from step to step
(images, labels, learning rate, what the average keeps) lies in buffers that the graph reads.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ouro.jobs.recipes import TrainSpec
from ouro.tasks import Task
from ouro.tasks.classification import Classification
from ouro.types import Batch
from ouro.vision import matrices

_WARM_UPS = 3
"""Steps before the recording: kernels are compiled, workspaces and moments allocated. They leave no trace."""
_log = logging.getLogger(__name__)


class TrainingStep:
    """Trains `model`, which is in train mode on its device, step by step; batches have to be of one form.

    Args:
        lr: highest learning rate; every step is given its part of it.
        task: what the model is for; its loss is the step's.
        record: replay the step as a CUDA graph where there is one. What cannot be recorded runs as it is, and that is
            logged once.
    """

    loss: Tensor
    """Of the last step, []; a recorded step overwrites it."""
    outputs: Any
    """Of the last step, without gradient; a recorded step overwrites them."""

    def __init__(
        self, model: nn.Module, spec: TrainSpec, lr: float, *, task: Task | None = None, record: bool = True
    ) -> None:
        self.model, self.spec, self.lr, self.task = model, spec, lr, task or Classification()
        self.average = {key: value.clone() for key, value in model.state_dict().items()}
        self.device = next(model.parameters()).device
        cuda = self.device.type == "cuda"
        # a graph reads both from where they lie
        self._rate = torch.zeros((), device=self.device) if cuda else None
        self._moved = torch.zeros((), device=self.device) if cuda else None
        self.optimizer = torch.optim.AdamW(
            _groups(model, spec.weight_decay), lr=lr if self._rate is None else self._rate, betas=(0.9, 0.98),
            fused=cuda or None, capturable=cuda and record,
        )  # fmt: skip
        self._to_record = cuda and record
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: Batch | None = None

    def __call__(self, batch: Batch, rate: float, keep: float) -> None:
        """One step at `rate` times the highest learning rate; the average keeps `keep` of itself."""
        if self._rate is None or self._moved is None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * rate
            self._advance(batch, 1 - keep)
            return
        self._rate.fill_(self.lr * rate)
        self._moved.fill_(1 - keep)
        with torch.cuda.device(self.device), _tensor_cores():
            if self._to_record:
                self._to_record = False
                self._batch = batch.copied()
                self._graph = self._recorded(self._batch, self._moved)
            if self._graph is None or self._batch is None:
                self._advance(batch, self._moved)
                return
            for buffer, value in zip(self._batch.tensors(), batch.tensors(), strict=True):
                buffer.copy_(value)
            self._graph.replay()

    def _advance(self, batch: Batch, moved: float | Tensor) -> None:
        """The step itself; `moved` is how much of the new weights the average takes."""
        loss, outputs = self.task.teach(self.model, batch, self.spec.smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.clip)
        self.optimizer.step()
        for key, value in self.model.state_dict().items():
            # a counter of batches has no average
            average = self.average[key]
            average.lerp_(value, moved) if value.is_floating_point() else average.copy_(value)
        self.loss, self.outputs = loss.detach(), outputs

    def _recorded(self, batch: Batch, moved: Tensor) -> torch.cuda.CUDAGraph | None:
        """The step on these buffers as a graph; None where it does something that no graph holds."""
        graph = torch.cuda.CUDAGraph()
        with self.rehearsal():
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside), warnings.catch_warnings():
                # torch's optimizers say so once when they are made for a graph and run outside of one
                warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")
                for _ in range(_WARM_UPS):
                    self._advance(batch, moved)
            torch.cuda.current_stream().wait_stream(aside)
            # the graph allocates gradients of its own
            self.optimizer.zero_grad()
            try:
                with torch.cuda.graph(graph):
                    self._advance(batch, moved)
            except RuntimeError as error:
                torch.cuda.synchronize()
                self.optimizer.zero_grad()
                _log.warning(
                    "a step cannot be recorded as a CUDA graph and runs without: %s", str(error).split("\n")[0]
                )
                return None
        return graph

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """What is trained inside is forgotten: weights, buffers, average and moments are as new, in the same memory.

        For the first steps of a phase, while moments and count of steps are still zero.
        """
        kept = {key: value.clone() for key, value in self.model.state_dict().items()}
        average = {key: value.clone() for key, value in self.average.items()}
        try:
            yield
        finally:
            for trained, before in ((self.model.state_dict(), kept), (self.average, average)):
                for key, value in trained.items():
                    value.copy_(before[key])
            for moments in self.optimizer.state.values():
                for value in moments.values():
                    value.zero_()


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only."""
    decayed = matrices(model)
    rest = [p for path, p in model.named_parameters() if path not in decayed]
    return [{"params": list(decayed.values()), "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


@contextmanager
def _tensor_cores() -> Iterator[None]:
    """Float32 products on tensor cores (TF32) inside; the process's own setting is back afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
