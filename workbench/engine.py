"""The only door from the page to the library: imports it when first needed, hands out plain arrays, remembers results.

`import ouro.jobs...` costs seconds, so nothing here happens before `warm_up`, which runs beside the first page. Models go
by the name that stands in the model list; one of a person's own is turned into its source here and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ouro.progress import finish
from workbench import workspace

log = logging.getLogger(__name__)

_REMEMBERED = 48
SHOWN = 12
"""Images that are offered, and read, at once."""


@dataclass(frozen=True, slots=True)
class Result:
    """A job's report without torch: its values, its arrays in numpy, and what made it."""

    values: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)


_KEPT: OrderedDict[str, Result] = OrderedDict()
_LOCK = threading.Lock()
_CLICK = threading.Lock()
_KNOWING = threading.Lock()
_LISTING = threading.Lock()
_EXAMINING = threading.Lock()


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
    """What the files behind a spec hold now: pictures by their bytes, folders and weights by when they were changed."""
    parts = []
    for value in (value for value in spec.values() if isinstance(value, str) and len(value) < 4096):
        path = Path(value.removeprefix("folder:"))
        if value.startswith("folder:") and path.is_dir():
            parts.append(str([folder.stat().st_mtime_ns for folder in (path, *_folders(path))]))
        elif path.is_file():
            parts.append(hashlib.sha256(path.read_bytes()).hexdigest())
    entry = workspace.model(str(spec.get("model", "")))
    if entry is not None:
        parts.append(f"{entry.path} {entry.size} {entry.changed} {entry.class_names}")
    return "".join(parts)


def _folders(path: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in os.scandir(path) if entry.is_dir())


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


def catalog() -> tuple[dict[str, Any], ...]:
    """Every model with what is known of its weights."""
    # a page asks from several threads at once; the first makes it, five at once take five times as long
    with _LISTING:
        return _catalog()


@lru_cache(maxsize=1)
def _catalog() -> tuple[dict[str, Any], ...]:
    from ouro.jobs.catalog import catalog as rows

    return tuple(rows())


def model_row(name: str) -> Mapping[str, Any]:
    """One row of `catalog`, or of a model of one's own.

    Raises:
        ValueError: unknown model.
    """
    if name in _ROWS:
        return _ROWS[name]
    own = workspace.model(name)
    known = own.row if own else next((row for row in catalog() if row["name"] == name), None)
    if known is None:
        raise ValueError(f"unknown model {name!r}; choose one of {', '.join(models())}")
    return known


def models() -> list[str]:
    """What can be opened at once: one's own models, those in the package and those downloaded; mere judges last."""
    # a model of latents has no picture to show
    pictured = (row for row in catalog() if row["input_size"][0] == 3)
    rows = sorted(pictured, key=lambda row: row["name"].endswith("_witness"))
    own = [entry.alias for entry in workspace.models() if not entry.fault]
    return [*own, *(row["name"] for row in rows if at_hand(row))]


def at_hand(row: Mapping[str, Any]) -> bool:
    """Whether the weights of a row of the catalog lie on this machine."""
    if row["weights"] != "hub":
        return row["weights"] == "embedded"
    from ouro.jobs.download import is_here

    return is_here(row["name"])


def check(model: str) -> None:
    """Opens a model, so that whatever is wrong with its weights is reported before a tab shows it.

    Raises:
        ValueError: they are gone, damaged, or those of another model.
    """
    if model not in _ROWS:
        _model(model)


def source(model: str) -> Any:
    """What jobs take for a name of the model list: the name itself, or the source of a model of one's own.

    Raises:
        ValueError: its file is gone or was changed.
    """
    own = workspace.model(model)
    if own is None:
        return model
    if own.fault:
        raise ValueError(own.fault)
    from ouro.types import ModelSource

    return ModelSource(own.name, own.path, (), own.class_names)


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
    """Whether a generation method takes steps; so it is said of one that is no longer registered."""
    from ouro.registry import GENERATORS

    return method not in GENERATORS or GENERATORS.get(method).optimizes


def health() -> dict[str, Any]:
    """What this machine can run: {"ok", "checks": [{name, ok, detail, fix, required}]}."""
    # two examinations at once would trip over each other's probes
    with _EXAMINING:
        return _health()


@lru_cache(maxsize=1)
def _health() -> dict[str, Any]:
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


def own_data(model: str) -> str:
    """The data set that a model was trained on, as far as it comes along; "" where it does not."""
    data = model_row(model)["data"]
    return "" if data == "folder" else data


def image_count(model: str, data: str) -> int:
    """How many images a data set holds, of its test split where it has several."""
    return len(_dataset(model, data, _stamp({"model": model, "data": data})))


def images(model: str, data: str, start: int, count: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Images start.. of a data set as a model sees them, uint8 [n 3 h w], and the classes in each, or else their files."""
    size = model_row(model)["input_size"][-1]
    stored = _PICTURES.get((data, start, count, size))
    return stored or _images(model, data, start, count, _stamp({"model": model, "data": data}))


@lru_cache(maxsize=16)
def _images(model: str, data: str, start: int, count: int, stamp: str) -> tuple[np.ndarray, tuple[str, ...]]:
    dataset = _dataset(model, data, stamp)
    pixels, labels = dataset.images(start, min(count, len(dataset) - start))
    if labels is None:
        return pixels.numpy(), tuple(path.stem for path in dataset.paths[start : start + len(pixels)])
    from ouro.data.captions import captions

    named = captions(labels, dataset.targets, dataset.classes)
    return pixels.numpy(), tuple(words.replace("_", " ") or "no object" for words in named)


@lru_cache(maxsize=8)
def _dataset(model: str, data: str, stamp: str) -> Any:
    from ouro.data.source import open_data

    return open_data(data, "test", _model(model).info)


def digest(model: str) -> str:
    """What runs call the weights of a model by, see `ouro.quant.apply.weights_digest`."""
    return _digest(model, _stamp({"model": model}))


@lru_cache(maxsize=8)
def _digest(model: str, stamp: str) -> str:
    from ouro.quant.apply import weights_digest

    return weights_digest(_model(model))


def has_masks(model: str) -> bool:
    """Whether anybody knows where the objects are in the images that a model was trained on."""
    data = own_data(model)
    if not data:
        return False
    from ouro.data import kind

    return "masks" in kind(data).provides


def makes_pictures(model: str) -> bool:
    """Whether a model makes pictures out of noise."""
    return model_row(model).get("task") == "diffusion"


def named_targets(model: str, targets: Any) -> list[str]:
    """The classes in each of a model's targets (a tensor [n ...]), in words."""
    from ouro.data.captions import captions
    from ouro.registry import TASKS

    kind = TASKS.get(model_row(model).get("task", "classification")).targets
    return [words.replace("_", " ") for words in captions(targets, kind, pixels(model)[2])]


def misfit(model: str, data: str) -> str:
    """Why the labels of a data set cannot score a model, "" where they can."""
    from ouro.tasks import task_of

    info, dataset = _model(model).info, _dataset(model, data, _stamp({"model": model, "data": data}))
    try:
        task_of(info).require(dataset, data, info)
    except ValueError as error:
        return str(error)
    return ""


def picture(model: str, sample: int | None, image: str | None = None, data: str = "") -> np.ndarray:
    """One image as a model sees it, uint8 [3 h w]: a file, or image `sample` of a data set."""
    if image is None and sample is not None:
        first = sample - sample % SHOWN
        return images(model, data, first, SHOWN)[0][sample - first]
    from ouro.jobs.inputs import image_file

    return image_file(str(image), _model(model).info)[0].numpy()


def picture_size(model: str, data: str, sample: int | None, path: str | None) -> tuple[int, int]:
    """(width, height) of a picture before a model sees it: of an upload, or of image `sample` of a data set."""
    from PIL import Image

    if not path:
        dataset = _dataset(model, data, _stamp({"model": model, "data": data}))
        if not dataset.files:
            size = model_row(model)["input_size"]
            return size[2], size[1]
        path = str(dataset.paths[sample])
    with Image.open(path) as picture:
        return picture.size


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


def pixels(model: str) -> tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...]]:
    """(mean, std, class names) of a model: how its images become pixels, and what they may show."""
    if workspace.model(model) is None:
        from ouro.models import variant

        config = variant(model).config
        return config.mean, config.std, getattr(config, "class_names", ()) or ()
    info = _model(model).info
    return info.mean, info.std, info.class_names


# ---- jobs ------------------------------------------------------------------------------------------------------


def _model(name: str) -> Any:
    return _opened(name, _stamp({"model": name}))


@lru_cache(maxsize=2)
def _opened(name: str, stamp: str) -> Any:
    from ouro.jobs.inputs import open_model

    return open_model(source(name))


def _sourced(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {**spec, "model": source(spec["model"])}


def _named(job: Generator[Any, None, Any], model: str) -> Generator[Any, None, Any]:
    """The job, whose report calls a model of one's own as the page does."""
    report = yield from job
    return report if workspace.model(model) is None else replace(report, values={**report.values, "model": model})


def explain_job(built: Any = None, /, **spec: Any) -> Generator[Any, None, Any]:
    """The job behind the Attention tab; builds the model of its spec unless it is given."""
    from ouro.jobs.explain import ExplainSpec, explain

    return _named(explain(ExplainSpec(**_sourced(spec)), built), spec["model"])


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

        with _CLICK:
            return plain(finish(_named(job(OutlierSpec(**_sourced(spec)), _model(spec["model"])), spec["model"])))

    return remembered("outliers", spec, make)


def answered(**spec: Any) -> Result:
    """What a model answers to one image, and a quantized file of it where `beside` names one, remembered."""

    def make() -> Result:
        from ouro.jobs.answers import AnswersSpec, answers

        with _CLICK:
            models = _pair(spec["model"], spec["beside"], _stamp({key: spec[key] for key in ("model", "beside")}))
            return plain(finish(_named(answers(AnswersSpec(**_sourced(spec)), models), spec["model"])))

    return remembered("answers", spec, make)


@lru_cache(maxsize=2)
def _pair(model: str, beside: str, stamp: str) -> Any:
    """What `ouro.jobs.evaluate.opened_beside` gives, kept between clicks."""
    from ouro.jobs.evaluate import opened_beside
    from ouro.jobs.inputs import source_of

    return opened_beside(source_of(source(model)), beside, "auto")


def familiar(**spec: Any) -> Result:
    """How far a picture is from what a model was trained on, remembered."""

    def make() -> Result:
        from ouro.jobs.familiar import FamiliarSpec
        from ouro.jobs.familiar import familiar as job

        # one at a time: the first one of a model takes many forwards
        with _KNOWING:
            return plain(finish(_named(job(FamiliarSpec(**_sourced(spec))), spec["model"])))

    return remembered("familiar", spec, make)


_PACES: dict[str, dict[str, float]] = {}


def pace(model: str) -> dict[str, float]:
    """Seconds that an image takes a model on this device, see `ouro.jobs.pace`; measured once."""
    from ouro.jobs.pace import pace as measured

    # with a click beside it a model would seem slower than it is
    with _CLICK:
        key = model + _stamp({"model": model})
        if key not in _PACES:
            _PACES[key] = measured(_model(model))
        return _PACES[key]


def known_pace(model: str) -> dict[str, float] | None:
    """What `pace` has measured, if it has."""
    return _PACES.get(model + _stamp({"model": model}))


def check_bits(text: str) -> None:
    """Reads a spelling of bits.

    Raises:
        ValueError: it cannot be read.
    """
    from ouro.quant.bits import parse_bits

    parse_bits(text)


def kept(report: Any) -> dict[str, Any]:
    """What is compared of a report of `ouro.jobs.evaluate` later, image by image: as files keep it, and its answers."""
    from ouro.evaluate.paired import kept as outcomes
    from ouro.registry import TASKS

    answers = {
        name: array.numpy() for name, array in report.arrays.items() if name in ("answers", "fp_answers", "labels")
    }
    task = TASKS.get(report.values["task"])()
    return {key: [value] for key, value in outcomes(report.arrays["right"], task.resampled).items()} | answers


def between(better: Sequence[Mapping[str, Any]], worse: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """How far the first runs are ahead of the others, see `ouro.evaluate.paired.between`."""
    from ouro.evaluate.paired import between as gap

    return gap(better, worse, metric)


def synthesis_job(**spec: Any) -> Generator[Any, None, Any]:
    """The job behind the Samples tab."""
    from ouro.jobs.synthesize import SynthesisSpec, synthesize

    return _named(synthesize(SynthesisSpec(**_sourced(spec))), spec["model"])


def quality_job(**spec: Any) -> Generator[Any, None, Any]:
    """What sets of images are worth, measured against real ones."""
    from ouro.jobs.quality import QualitySpec, quality

    return _named(quality(QualitySpec(**_sourced(spec))), spec["model"])


def quantize_job(**spec: Any) -> Generator[Any, None, Any]:
    """Calibration of one configuration."""
    from ouro.jobs.quantize import QuantizeSpec, quantize

    return _named(quantize(QuantizeSpec(**_sourced(spec))), spec["model"])


def sensitivity_job(**spec: Any) -> Generator[Any, None, Any]:
    """What rounding the sites of one configuration costs."""
    from ouro.jobs.sensitivity import SensitivitySpec, measure_sensitivity

    return _named(measure_sensitivity(SensitivitySpec(**_sourced(spec))), spec["model"])


def measure_job(kind: str, **spec: Any) -> Generator[Any, None, Any]:
    """The "accuracy" of a quantized file, or its "agreement" with the float model on images without labels."""
    from ouro.jobs.agreement import AgreementSpec, agreement
    from ouro.jobs.evaluate import EvaluateSpec, evaluate

    return evaluate(EvaluateSpec(**spec)) if kind == "accuracy" else agreement(AgreementSpec(**spec))


def download_job(name: str) -> Generator[Any, None, Any]:
    """The published weights of a model, brought here."""
    from ouro.jobs.download import DownloadSpec, download

    return download(DownloadSpec(name))


def gate_job(names: tuple[str, ...]) -> Generator[Any, None, Any]:
    """Whether these kernels compute what they should, on this machine."""
    from ouro.jobs.bench.kernels import GateSpec, check_kernels

    return check_kernels(GateSpec(names))


@lru_cache(maxsize=1)
def ledger() -> list[dict[str, Any]]:
    """Every figure and table of the papers with its verdict; none where the stored runs did not come along."""
    from ouro.paper.ledger import ledger
    from ouro.paper.markdown import RESULTS

    return ledger() if RESULTS.is_dir() else []


@lru_cache(maxsize=16)
def kernel_work(name: str) -> dict[str, Any]:
    """The least that the largest measured call of a kernel has to do, and the name of that call as `case`."""
    from ouro.kernels import kernel

    checked = kernel(name)
    case = max((case for case in checked.cases if case.bench), key=lambda case: checked.floor(case).bytes)
    return {"case": case.name, **asdict(checked.floor(case))}


def warm_up() -> None:
    """Imports the library and what its first answer needs, so that the first click does not wait for it."""
    try:
        catalog()
        health()
    except Exception:
        # the page says what is wrong when it asks itself
        log.exception("warm-up failed")
