"""The only door from the page to the library: imports it when first needed, hands out plain arrays, remembers results.

`import ouro.jobs...` costs seconds, so nothing here happens before `warm_up`, which runs beside the first page.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ouro.progress import finish

log = logging.getLogger(__name__)

_REMEMBERED = 48


@dataclass(frozen=True, slots=True)
class Result:
    """A job's report without torch: its values, its arrays in numpy, and what made it."""

    values: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)


_KEPT: OrderedDict[str, Result] = OrderedDict()
_LOCK = threading.Lock()
_CLICK = threading.Lock()


def plain(report: Any) -> Result:
    """A Report as a Result."""
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in report.arrays.items()}
    return Result(dict(report.values), arrays, asdict(report.run))


def remembered(kind: str, spec: Mapping[str, Any], make: Callable[[], Result]) -> Result:
    """`make()`, or what it gave the last time for the same spec (by content; files count with their bytes)."""
    key = kind + json.dumps(dict(spec), sort_keys=True) + _stamp(spec)
    with _LOCK:
        if key in _KEPT:
            _KEPT.move_to_end(key)
            return _KEPT[key]
    result = make()
    with _LOCK:
        _KEPT[key] = result
        while len(_KEPT) > _REMEMBERED:
            _KEPT.popitem(last=False)
    return result


def _stamp(spec: Mapping[str, Any]) -> str:
    files = [Path(value) for value in spec.values() if isinstance(value, str) and len(value) < 4096]
    return "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file())


_ROWS: dict[str, dict[str, Any]] = {}
_PICTURES: dict[tuple[str, int, int, int], tuple[np.ndarray, tuple[str, ...]]] = {}


def preload(
    kind: str,
    spec: Mapping[str, Any],
    result: Result,
    row: dict[str, Any],
    pictures: tuple[np.ndarray, tuple[str, ...]],
) -> None:
    """Puts a stored result of a model in place, with its row of the catalog and the first images of its test split."""
    remembered(kind, spec, lambda: result)
    _ROWS[row["name"]] = row
    _PICTURES[row["data"], 0, len(pictures[1]), row["input_size"][-1]] = pictures


# ---- what there is ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def catalog() -> tuple[dict[str, Any], ...]:
    """Every model with what is known of its weights."""
    from ouro.jobs.catalog import catalog as rows

    return tuple(rows())


def model_row(name: str) -> dict[str, Any]:
    """One row of `catalog`.

    Raises:
        ValueError: unknown model.
    """
    if name in _ROWS:
        return _ROWS[name]
    found = next((row for row in catalog() if row["name"] == name), None)
    if found is None:
        raise ValueError(f"unknown model {name!r}; choose one of {', '.join(models())}")
    return found


def models() -> list[str]:
    """Models whose weights lie in the package, those that only judge others last."""
    names = [row["name"] for row in catalog() if row["weights"] == "embedded"]
    return sorted(names, key=lambda name: name.endswith("_witness"))


def methods() -> list[str]:
    """Quantization methods."""
    from ouro.registry import QUANTIZERS

    return list(QUANTIZERS)


def generators() -> list[str]:
    """Generation methods."""
    from ouro.registry import GENERATORS

    return list(GENERATORS)


@lru_cache(maxsize=1)
def method_titles() -> dict[str, str]:
    """Quantization method -> what people call it."""
    from ouro.registry import QUANTIZERS

    return {name: QUANTIZERS.get(name).title for name in QUANTIZERS}


@lru_cache(maxsize=1)
def generator_titles() -> dict[str, str]:
    """Generation method -> what people call it."""
    from ouro.registry import GENERATORS

    return {name: GENERATORS.get(name).title for name in GENERATORS}


@lru_cache(maxsize=16)
def generator_settings(method: str) -> tuple[Any, ...]:
    """The options of a generation method (`ouro.settings.Setting`)."""
    from ouro.registry import GENERATORS
    from ouro.settings import settings

    return settings(GENERATORS.get(method))


def optimizes(method: str) -> bool:
    """Whether a generation method takes steps."""
    from ouro.registry import GENERATORS

    return GENERATORS.get(method).optimises


@lru_cache(maxsize=1)
def health() -> dict[str, Any]:
    """What this machine can run: {"ok", "checks": [{name, ok, detail, fix, required}]}."""
    from ouro.jobs.doctor import doctor

    return doctor()


def device() -> str:
    """The device in a few words."""
    checks = {check["name"]: check for check in health()["checks"]}
    gpu = next((check for name, check in checks.items() if name.startswith("cuda:")), None)
    if gpu is not None:
        return "CUDA · " + gpu["detail"].split(",")[0]
    cores = next((part.strip() for part in checks["cpu"]["detail"].split(",") if "core" in part), "")
    return f"CPU · {cores}" if cores else "CPU"


# ---- pictures --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def held_out_count(data: str) -> int:
    """How many images the test split has."""
    from ouro.data import load

    return len(load(data, split="test"))


def held_out(data: str, start: int, count: int, size: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Images start.. of the test split, uint8 [n 3 h w], and the names of their classes."""
    return _PICTURES.get((data, start, count, size)) or _held_out(data, start, count, size)


@lru_cache(maxsize=16)
def _held_out(data: str, start: int, count: int, size: int) -> tuple[np.ndarray, tuple[str, ...]]:
    from ouro.data import load

    dataset = load(data, split="test", size=size)
    images, labels = dataset.images(start, count)
    names = ["" if labels is None else dataset.classes[int(labels[i])].replace("_", " ") for i in range(count)]
    return images.numpy(), tuple(names)


def check_picture(path: str) -> str:
    """The path, if it holds a picture that can be opened.

    Raises:
        ValueError: it does not.
    """
    from PIL import Image, UnidentifiedImageError

    name = Path(path).name
    if Path(path).stat().st_size == 0:
        raise ValueError(f"{name} is empty (0 bytes); upload it again")
    try:
        with Image.open(path) as picture:
            picture.convert("RGB").resize((8, 8))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} is no picture that can be opened; use PNG, JPEG or WebP") from error
    return path


# ---- jobs ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _model(name: str) -> Any:
    from ouro.models import create_model

    return create_model(name, pretrained=True)


def explain_job(built: Any = None, /, **spec: Any) -> Generator[Any, None, Any]:
    """The job behind the Attention tab; builds the model of its spec unless it is given."""
    from ouro.jobs.explain import ExplainSpec, explain

    return explain(ExplainSpec(**spec), built)


def explained(**spec: Any) -> Result:
    """Maps of one image, remembered."""

    def make() -> Result:
        # the model is kept between clicks, and may be traced by one of them at a time
        with _CLICK:
            return plain(finish(explain_job(_model(spec["model"]), **spec)))

    return remembered("explain", spec, make)


def outliers(**spec: Any) -> Result:
    """The outlier map of one image, remembered."""

    def make() -> Result:
        from ouro.jobs.outliers import OutlierSpec
        from ouro.jobs.outliers import outliers as job

        return plain(finish(job(OutlierSpec(**spec))))

    return remembered("outliers", spec, make)


def synthesis_job(**spec: Any) -> Generator[Any, None, Any]:
    """The job behind the Samples tab."""
    from ouro.jobs.synthesize import SynthesisSpec, synthesize

    return synthesize(SynthesisSpec(**spec))


def quality_job(**spec: Any) -> Generator[Any, None, Any]:
    """What sets of images are worth, measured against real ones."""
    from ouro.jobs.quality import QualitySpec, quality

    return quality(QualitySpec(**spec))


def quantize_job(**spec: Any) -> Generator[Any, None, Any]:
    """Calibration of one configuration."""
    from ouro.jobs.quantize import QuantizeSpec, quantize

    return quantize(QuantizeSpec(**spec))


def sensitivity_job(**spec: Any) -> Generator[Any, None, Any]:
    """What rounding the sites of one configuration costs."""
    from ouro.jobs.sensitivity import SensitivitySpec, measure_sensitivity

    return measure_sensitivity(SensitivitySpec(**spec))


def evaluate_job(**spec: Any) -> Generator[Any, None, Any]:
    """Accuracy of one configuration."""
    from ouro.jobs.evaluate import EvaluateSpec, evaluate

    return evaluate(EvaluateSpec(**spec))


def gate_job(names: tuple[str, ...]) -> Generator[Any, None, Any]:
    """Whether these kernels compute what they should, on this machine."""
    from ouro.jobs.bench.kernels import GateSpec, check_kernels

    return check_kernels(GateSpec(names))


@lru_cache(maxsize=16)
def kernel_work(name: str) -> dict[str, Any]:
    """The least that the largest measured call of a kernel has to do, and the name of that call as `case`."""
    from ouro.kernels import kernel

    found = kernel(name)
    case = max((case for case in found.cases if case.bench), key=lambda case: found.floor(case).bytes)
    return {"case": case.name, **asdict(found.floor(case))}


def warm_up() -> None:
    """Imports the library and what its first answer needs, so that the first click does not wait for it."""
    try:
        catalog()
        health()
    except Exception:
        # the page says what is wrong when it asks itself
        log.exception("warm-up failed")
