"""Taps: identity modules at every tensor the glossary names; the only instrumentation of a model.

One forward, several ways to run it: plain (nothing attached), traced (`record`), quantized (`attach`, `detach`).
The idea of an identity module as a hook point follows TransformerLens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ouro.types import ScanInputs, ScanOrder, ScanRecord, Trace

SITES = {
    "linear.in": "input of an inner linear layer",
    "linear.weight": "weight of an inner linear layer",
    "conv.in": "input of a depthwise convolution",
    "conv.weight": "weight of a depthwise convolution",
    "scan.u": "scan input",
    "scan.delta_raw": "step size before softplus, bias included",
    "scan.delta": "step size",
    "scan.A": "continuous state matrix",
    "scan.B": "input matrix",
    "scan.C": "output matrix",
    "scan.D": "skip",
    "scan.A_bar": "decay of the state, inside the recurrence",
    "scan.B_bar": "what the input is multiplied by on its way into the state, inside the recurrence",
    "scan.h": "hidden state, inside the recurrence",
    "scan.y": "scan output, skip included",
    "gate": "gate after SiLU",
    "norm.out": "output of the final normalisation",
    "embed.in": "input of the patch embedding (the image, or the map after its first convolution)",
    "embed.weight": "weight of the patch embedding",
    "downsample.in": "input of the convolution between two stages",
    "downsample.weight": "weight of the convolution between two stages",
    "block.in": "input of a dense convolution inside a block",
    "block.weight": "weight of a dense convolution inside a block",
    "attention.q": "queries of softmax attention",
    "attention.k": "keys of softmax attention",
    "attention.v": "values of softmax attention",
    "decoder.in": "input of a convolution in the head of a dense task",
    "decoder.weight": "weight of a convolution in the head of a dense task",
    "head.in": "input of the layer that gives the answer",
    "head.weight": "weight of the layer that gives the answer",
    "block.out": "output of a block's mixer, before the residual sum",
}
"""Every kind of tensor that can be tapped; `Tap.site` is one of these."""


class Tap(nn.Module):
    """Identity at a named tensor; returns `quantizer(x)` while a quantizer is attached.

    Args:
        site: a key of `SITES`.
        axes: the tensor's axes in order, as in "b e l".
        costly: recording it changes what is computed (h is only stored, A_bar and B_bar only formed on request),
            so a pattern must spell out its last path component to match it.
        role: which layer of its kind it belongs to, where methods distinguish them ("in_proj", "out_proj").
    """

    quantizer: nn.Module | None

    def __init__(self, site: str, axes: str, *, costly: bool = False, role: str = "") -> None:
        super().__init__()
        if site not in SITES:
            raise ValueError(f"unknown site {site!r}; known: {', '.join(SITES)}")
        self.site = site
        self.axes = tuple(axes.split())
        self.costly = costly
        self.role = role
        self.quantizer = None

    @property
    def recorded(self) -> bool:
        """True while somebody records this tap."""
        return bool(self._forward_hooks)

    def forward(self, x: Tensor) -> Tensor:
        return x if self.quantizer is None else self.quantizer(x)

    def observe(self, x: Tensor) -> None:
        """Shows x to whoever records this tap, without quantizing it: for a tensor that was quantized on its way."""
        for hook in self._forward_hooks.values():
            hook(self, (x,), x)

    def extra_repr(self) -> str:
        return f"{self.site!r}, {' '.join(self.axes)!r}"


class ScanModule(nn.Module):
    """A selective scan in a model: its steps read the image in `order`, and taps are named after its operands.

    Args:
        order: which cell of the grid each step reads.

    `backend` is the one that it is run on, see `ouro.scan.dispatch`; "auto" picks the first that serves the request.
    """

    def __init__(self, order: ScanOrder) -> None:
        super().__init__()
        self.order = order
        self.backend = "auto"


def taps(model: nn.Module) -> Iterator[tuple[str, Tap]]:
    """Yields (path, tap) of every tap of the model, in module order.

    Raises:
        ValueError: a model whose `untapped` says why nothing of it can be seen, counted or rounded, or what torch.compile
            made of one.
    """
    if why := getattr(model, "untapped", None):
        raise ValueError(why)
    if hasattr(model, "_orig_mod"):
        raise ValueError(
            "a compiled model calls no taps; give the model itself (its ._orig_mod), and compile it afterwards"
        )
    for path, module in model.named_modules():
        if isinstance(module, Tap):
            yield path, module


def match_taps(model: nn.Module, *patterns: str) -> dict[str, Tap]:
    """Taps whose path matches any of the shell-style patterns; "layers.*.scans.*" takes all but costly ones.

    Raises:
        ValueError: a pattern matches no tap.
    """
    matches: dict[str, Tap] = {}
    known = dict(taps(model))
    for pattern in patterns:
        last = pattern.rsplit(".", 1)[-1]
        hits = {
            path: tap
            for path, tap in known.items()
            if fnmatchcase(path, pattern) and (not tap.costly or last == path.rsplit(".", 1)[-1])
        }
        if not hits:
            example = ", ".join(list(known)[:3]) or "none"
            raise ValueError(f"pattern {pattern!r} matches none of the model's {len(known)} taps (such as {example})")
        matches.update(hits)
    return matches


@contextmanager
def record(model: nn.Module, *patterns: str, detach: bool = True) -> Iterator[Trace]:
    """Records every matching tap during the forwards inside the block; hooks are gone afterwards.

    The trace is filled when the block ends; it holds the latest forward. `trace.scans` has a `ScanRecord` for
    each scan of which all operands matched (h too, when a pattern names it: "layers.0.mixer.scans.0.tap_h").

    Args:
        detach: False keeps the autograd graph, for image synthesis.

    Raises:
        ValueError: a pattern matches no tap.
        RuntimeError: a matched tap did not fire inside the block.
    """
    tensors: dict[str, Tensor] = {}
    scans: list[ScanRecord] = []
    trace = Trace(tensors, scans)
    chosen = match_taps(model, *patterns)

    def listen(path: str) -> RemovableHandle:
        def hook(_module: nn.Module, _args: object, output: Tensor) -> None:
            tensors[path] = output.detach() if detach else output

        return chosen[path].register_forward_hook(hook)

    handles = [listen(path) for path in chosen]
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()
    silent = [path for path in chosen if path not in tensors]
    if silent:
        raise RuntimeError(
            f"{len(silent)} of {len(chosen)} recorded taps did not fire, first {silent[0]!r}; "
            "was the model called inside the block?"
        )
    scans.extend(_scan_records(model, tensors))


_OPERANDS = ("u", "delta", "A", "B", "C", "D")


def _scan_records(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[ScanRecord]:
    """One record per scan that was traced whole."""
    for path, module in model.named_modules():
        names = {name: f"{path}.tap_{name}" for name in (*_OPERANDS, "y")}
        if not isinstance(module, ScanModule) or not all(key in tensors for key in names.values()):
            continue
        yield ScanRecord(
            path=path,
            inputs=ScanInputs(*(tensors[names[name]] for name in _OPERANDS)),
            y=tensors[names["y"]],
            order=module.order,
            h=tensors.get(f"{path}.tap_h"),
        )


def attach(model: nn.Module, quantizers: Mapping[str, nn.Module]) -> nn.Module:
    """Puts quantizers (tap path -> module) on the model's taps, in place, and returns the model.

    Raises:
        ValueError: a path is no tap of this model, or the tap already has a quantizer.
    """
    known = dict(taps(model))
    for path in quantizers:
        if path not in known:
            raise ValueError(f"{path!r} is no tap of this model; was it calibrated for another one?")
        if known[path].quantizer is not None:
            raise ValueError(f"tap {path!r} already has a quantizer; detach(model) first")
    for path, quantizer in quantizers.items():
        known[path].quantizer = quantizer
    return model


def detach(model: nn.Module) -> nn.Module:
    """Takes every quantizer off; the float model is back bit for bit."""
    for _, tap in taps(model):
        if tap.quantizer is not None:
            # a module that is set to None keeps its name, and a strict load_state_dict would pass over its tensors
            del tap.quantizer
            tap.quantizer = None
    return model
