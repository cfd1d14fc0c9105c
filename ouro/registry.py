"""Names to things, looked up lazily: one `Registry` per kind, one line per entry."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from importlib import import_module
from typing import Any


class Registry:
    """Maps a name to "module:attribute", imported when it is first asked for."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._targets: dict[str, str] = {}

    def add(self, name: str, target: str) -> None:
        """Registers `target` ("package.module:attribute") under `name`.

        Raises:
            ValueError: the name is taken, or the target has no colon.
        """
        if name in self._targets:
            raise ValueError(f"{self.kind} {name!r} is registered twice: {self._targets[name]} and {target}")
        if ":" not in target:
            raise ValueError(f"{self.kind} {name!r} points to {target!r}, expected 'package.module:attribute'")
        self._targets[name] = target

    def get(self, name: str) -> Any:
        """Imports and returns the entry.

        Raises:
            ValueError: unknown name; the message lists the known ones.
        """
        # what a file says it is a name may be anything
        if name not in self:
            close = get_close_matches(str(name), self._targets, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"unknown {self.kind} {name!r}{hint}; known: {', '.join(self)}")
        module, attribute = self._targets[name].split(":")
        return getattr(import_module(module), attribute)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._targets

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)


MODELS = Registry("model")
MODELS.add("vim_tiny_patch16_224", "ouro.models.vim:vim_tiny_patch16_224")
MODELS.add("vim_small_patch16_224", "ouro.models.vim:vim_small_patch16_224")
MODELS.add("vim_base_patch16_224", "ouro.models.vim:vim_base_patch16_224")
MODELS.add("vim_tiny_plus_patch16_224", "ouro.models.vim:vim_tiny_plus_patch16_224")
MODELS.add("vim_small_plus_patch16_224", "ouro.models.vim:vim_small_plus_patch16_224")
MODELS.add("vmamba_tiny", "ouro.models.vmamba:vmamba_tiny")
MODELS.add("vmamba_small", "ouro.models.vmamba:vmamba_small")
MODELS.add("vmamba_base", "ouro.models.vmamba:vmamba_base")
MODELS.add("localvim_tiny", "ouro.models.localmamba:localvim_tiny")
MODELS.add("localvim_tiny_cls", "ouro.models.localmamba:localvim_tiny_cls")
MODELS.add("localvim_small", "ouro.models.localmamba:localvim_small")
MODELS.add("localvmamba_tiny", "ouro.models.localmamba:localvmamba_tiny")
MODELS.add("localvmamba_small", "ouro.models.localmamba:localvmamba_small")
MODELS.add("mambavision_t", "ouro.models.mambavision:mambavision_t")
MODELS.add("mambavision_t2", "ouro.models.mambavision:mambavision_t2")
MODELS.add("mambavision_s", "ouro.models.mambavision:mambavision_s")
MODELS.add("mambavision_b", "ouro.models.mambavision:mambavision_b")
MODELS.add("mambavision_l", "ouro.models.mambavision:mambavision_l")
MODELS.add("mambavision_l2", "ouro.models.mambavision:mambavision_l2")
MODELS.add("zigma_zigzag8", "ouro.models.zigma:zigma_zigzag8")
MODELS.add("vim_nano", "ouro.models.zoo:vim_nano")
MODELS.add("vim_nano_witness", "ouro.models.zoo:vim_nano_witness")
MODELS.add("vim_nano_digits", "ouro.models.zoo:vim_nano_digits")
MODELS.add("vmamba_nano", "ouro.models.zoo:vmamba_nano")
MODELS.add("localvmamba_nano", "ouro.models.zoo:localvmamba_nano")
MODELS.add("mambavision_nano", "ouro.models.zoo:mambavision_nano")
MODELS.add("zigma_nano", "ouro.models.zoo:zigma_nano")
MODELS.add("vim_micro_cifar10", "ouro.models.zoo:vim_micro_cifar10")
MODELS.add("vim_micro_cifar10_witness", "ouro.models.zoo:vim_micro_cifar10_witness")
MODELS.add("vmamba_tiny_ade20k", "ouro.models.segmenters:vmamba_tiny_ade20k")
MODELS.add("vmamba_small_ade20k", "ouro.models.segmenters:vmamba_small_ade20k")
MODELS.add("vmamba_tiny_coco", "ouro.models.detectors:vmamba_tiny_coco")
MODELS.add("vmamba_small_coco", "ouro.models.detectors:vmamba_small_coco")
MODELS.add("vmamba_nano_seg", "ouro.models.zoo:vmamba_nano_seg")
MODELS.add("localvmamba_nano_seg", "ouro.models.zoo:localvmamba_nano_seg")
MODELS.add("mambavision_nano_seg", "ouro.models.zoo:mambavision_nano_seg")
MODELS.add("vim_nano_seg", "ouro.models.zoo:vim_nano_seg")
MODELS.add("vmamba_nano_det", "ouro.models.zoo:vmamba_nano_det")
MODELS.add("localvmamba_nano_det", "ouro.models.zoo:localvmamba_nano_det")
MODELS.add("mambavision_nano_det", "ouro.models.zoo:mambavision_nano_det")
MODELS.add("vim_nano_det", "ouro.models.zoo:vim_nano_det")

GENERATORS = Registry("generation method")
GENERATORS.add("ouro", "ouro.gen.methods.ouro:OuroMambaGen")
GENERATORS.add("psaq", "ouro.gen.methods.psaq:PsaqGen")
GENERATORS.add("clamp", "ouro.gen.methods.clamp:ClampGen")
GENERATORS.add("class", "ouro.gen.methods.class_prior:ClassPrior")
GENERATORS.add("noise", "ouro.gen.methods.noise:GaussianNoise")

QUANTIZERS = Registry("quantization method")
QUANTIZERS.add("minmax", "ouro.quant.methods.static:MinMax")
QUANTIZERS.add("percentile", "ouro.quant.methods.static:Percentile")
QUANTIZERS.add("clipped", "ouro.quant.methods.static:Clipped")
QUANTIZERS.add("dynamic", "ouro.quant.methods.dynamic:DynamicToken")
QUANTIZERS.add("smoothquant", "ouro.quant.methods.smooth:SmoothQuant")
QUANTIZERS.add("quamba", "ouro.quant.methods.quamba:Quamba")
QUANTIZERS.add("qmamba", "ouro.quant.methods.qmamba:QMamba")
QUANTIZERS.add("brecq", "ouro.quant.methods.brecq:BRECQ")
QUANTIZERS.add("ptq4vm", "ouro.quant.methods.ptq4vm:PTQ4VM")
QUANTIZERS.add("kscale", "ouro.quant.methods.kscale:KScaled")
QUANTIZERS.add("ouro", "ouro.quant.methods.ouro:OuroMambaQuant")
QUANTIZERS.add("ouro_plus", "ouro.quant.methods.ouro_plus:OuroMambaPlus")

TASKS = Registry("task")
TASKS.add("classification", "ouro.tasks.classification:Classification")
TASKS.add("diffusion", "ouro.tasks.diffusion:Diffusion")
TASKS.add("segmentation", "ouro.tasks.segmentation:Segmentation")
TASKS.add("detection", "ouro.tasks.detection:Detection")

DATASETS = Registry("data set")
DATASETS.add("scenes", "ouro.data.scenes:Scenes")
DATASETS.add("scenes_seg", "ouro.data.crowds:ScenesSeg")
DATASETS.add("scenes_det", "ouro.data.crowds:ScenesDet")
DATASETS.add("digits", "ouro.data.digits:Digits")
DATASETS.add("cifar10", "ouro.data.cifar10:Cifar10")
DATASETS.add("folder", "ouro.data.folder:Folder")
DATASETS.add("masks", "ouro.data.masks:Masks")
DATASETS.add("ade20k", "ouro.data.masks:ADE20K")
DATASETS.add("coco", "ouro.data.coco:Coco")
