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
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ouro.progress import finish, mapped
from workbench import library, memory, runner, workspace

log = logging.getLogger(__name__)

_REMEMBERED = 48
_ROOM = 160 * 2**20
"""Bytes of arrays that are remembered at most; the latest result stays, however large it is."""
SHOWN = 12
"""Images that are offered, and read, at once."""
LEAST = 8
"""Pixels on the shorter side of the smallest picture that is taken."""
NOISE = "noise"
"""The set of images that are Gaussian noise, see `ouro.data.source.NoiseImages`; image i is that of seed i."""


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
    key = kind + json.dumps(dict(spec), sort_keys=True) + _stamp(spec) + _written(*_chosen(spec))
    with _LOCK:
        if key in _KEPT:
            _KEPT.move_to_end(key)
            return _KEPT[key]
    result = make()
    with _LOCK:
        _KEPT[key] = result
        while len(_KEPT) > 1 and (len(_KEPT) > _REMEMBERED or sum(map(_bytes, _KEPT.values())) > _ROOM):
            _KEPT.popitem(last=False)
    return result


def _bytes(result: Result) -> int:
    return sum(array.nbytes for array in result.arrays.values())


def _stamp(spec: Mapping[str, Any]) -> str:
    """What the files behind a spec hold now: pictures by their bytes, folders and weights by when they were changed."""
    parts = []
    for value in (value for value in spec.values() if isinstance(value, str) and len(value) < 4096):
        path = Path(value.removeprefix("folder:"))
        if value.startswith("folder:") and path.is_dir():
            parts.append(str([folder.stat().st_mtime_ns for folder in (path, *_folders(path))]))
        elif path.is_file():
            parts.append(hashlib.sha256(path.read_bytes()).hexdigest())
    return "".join([*parts, workspace.version(str(spec.get("model", "")))])


def _chosen(spec: Mapping[str, Any]) -> list[Path]:
    """The file of the picture that a spec takes from a folder."""
    data, sample = str(spec.get("data", "")), spec.get("sample")
    if not data.startswith("folder:") or sample is None or spec.get("path"):
        return []
    return _dataset(spec["model"], data, _stamp({"model": spec["model"], "data": data})).paths[sample : sample + 1]


def _written(*files: Path) -> str:
    """What tells files from those of before: a picture that is written anew leaves its folder as it was."""
    facts = [os.stat(file) for file in files]
    return str([(fact.st_size, fact.st_mtime_ns) for fact in facts]) if facts else ""


def version(model: str) -> str:
    """What tells a model from another one, and from what its file held before."""
    return model + _stamp({"model": model})


def _folders(path: Path) -> list[Path]:
    """All folders that pictures are looked for in below this one, which alone may have links for some of them."""
    found, left = [], [path]
    while left:
        with os.scandir(left.pop()) as entries:
            below = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=not found)]
        found += below
        # every folder in a folder is one more link to it: with two there are none, and no pictures to list
        left += [folder for folder in below if folder.stat().st_nlink != 2]
    return sorted(found)


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
    from ouro.registry import MODELS

    return tuple(map(_row, MODELS))


@cache
def _row(name: str) -> dict[str, Any]:
    from ouro.jobs.catalog import catalog_row

    return catalog_row(name)


def model_row(name: str) -> Mapping[str, Any]:
    """One row of `catalog`, or of a model of one's own.

    Raises:
        ValueError: unknown model.
    """
    if name in _ROWS:
        return _ROWS[name]
    if own := workspace.model(name):
        return own.row
    from ouro.registry import MODELS

    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; choose one of {', '.join(models())}")
    return _row(name)


def registered() -> list[str]:
    """Every model that has a name, whether its weights are here or not."""
    from ouro.registry import MODELS

    return list(MODELS)


def models() -> list[str]:
    """What can be opened at once: one's own models, those in the package and those downloaded; mere judges last."""
    from ouro.jobs.catalog import takes_pictures
    from ouro.registry import MODELS

    # a model of latents has no picture to show
    names = sorted(filter(takes_pictures, MODELS), key=lambda name: name.endswith("_witness"))
    own = [entry.alias for entry in workspace.models() if not entry.fault]
    return [*own, *filter(at_hand, names)]


def at_hand(name: str) -> bool:
    """Whether the weights of a registered model lie on this machine."""
    from ouro.jobs.catalog import weights_of
    from ouro.jobs.download import is_here

    where = weights_of(name)
    return is_here(name) if where == "hub" else where == "embedded"


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
    if stored := _PICTURES.get((data, start, count, size)):
        return stored
    stamp = _stamp({"model": model, "data": data})
    dataset = _dataset(model, data, stamp)
    written = _written(*dataset.paths[start : start + count]) if dataset.files else ""
    return _images(model, data, start, count, stamp, written)


@lru_cache(maxsize=16)
def _images(
    model: str, data: str, start: int, count: int, stamp: str, written: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    dataset = _dataset(model, data, stamp)
    pixels, labels = dataset.images(start, min(count, len(dataset) - start))
    if data == NOISE:
        return pixels.numpy(), tuple(f"seed {seed}" for seed in range(start, start + len(pixels)))
    if labels is None:
        return pixels.numpy(), tuple(path.stem for path in dataset.paths[start : start + len(pixels)])
    from ouro.data.captions import captions

    named = captions(labels, dataset.targets, dataset.classes)
    return pixels.numpy(), tuple(words.replace("_", " ") or "no object" for words in named)


@lru_cache(maxsize=8)
def _dataset(model: str, data: str, stamp: str) -> Any:
    from ouro.data.source import open_data

    return open_data(data, "test", _model(model).info)


def known_digest(model: str) -> str:
    """`digest`, without opening a model whose first view came along."""
    return str(_ROWS[model].get("digest", "")) if model in _ROWS else digest(model)


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


def picture_file(model: str, data: str, sample: int | None, path: str | None) -> Any:
    """A picture before a model sees it, an `ouro.data.picture.PictureFile`: an upload, or image `sample` of a data set."""
    from ouro.data.picture import PictureFile, about

    if not path:
        dataset = _dataset(model, data, _stamp({"model": model, "data": data}))
        if not dataset.files:
            size = model_row(model)["input_size"]
            return PictureFile(size[2], size[1], False)
        path = str(dataset.paths[sample])
    return about(Path(path))


def check_picture(path: str) -> str:
    """The path, if it holds a picture that can be opened and is no smaller than `LEAST`.

    Raises:
        ValueError: it does not, or is.
    """
    from ouro.data.picture import about

    name = Path(path).name
    if Path(path).stat().st_size == 0:
        raise ValueError(f"{name} is empty (0 bytes); upload it again")
    try:
        picture = about(Path(path))
    except ValueError as error:
        # reasons of our own are for people; those of a decoder are not
        reason = f" ({error.__cause__})" if type(error.__cause__) is ValueError else ""
        raise ValueError(f"{name} is no picture that can be opened{reason}; use PNG, JPEG or WebP") from error
    if min(picture.width, picture.height) < LEAST:
        raise ValueError(
            f"{name} is {picture.width}×{picture.height} pixels; the least is {LEAST}×{LEAST}, take a larger one"
        )
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
            models = _beside(spec)
            return plain(finish(_named(answers(AnswersSpec(**_sourced(spec)), models), spec["model"])))

    return remembered("answers", spec, make)


def drifted(**spec: Any) -> Result:
    """How far the state of a quantized file of a model is from the float one's, on one image, remembered."""

    def make() -> Result:
        from ouro.jobs.drift import DriftSpec, drift

        with _CLICK:
            models = _beside(spec)
            return plain(finish(_named(drift(DriftSpec(**_sourced(spec)), models), spec["model"])))

    return remembered("drift", spec, make)


def _beside(spec: Mapping[str, Any]) -> Any:
    """A model and the quantized file beside it, as their files are now."""
    return _pair(spec["model"], spec["beside"], _stamp({key: spec[key] for key in ("model", "beside")}))


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
        key = version(model)
        if key not in _PACES:
            _PACES[key] = measured(_model(model))
        return _PACES[key]


def known_pace(model: str) -> dict[str, float] | None:
    """What `pace` has measured, if it has."""
    return _PACES.get(version(model))


def sites(model: str, scope: str) -> list[str]:
    """Paths of all tensors of a model that a scope rounds."""
    from ouro.quant.plan import scope_sites

    return scope_sites(_model(model), scope)


def kept_sites(model: str, scope: str, expression: str) -> list[str]:
    """Those in whose path a regular expression is found.

    Raises:
        ValueError: it cannot be read, or is found in none.
    """
    from ouro.quant.bits import FLOAT
    from ouro.quant.plan import kept_sites as found

    return list(found(sites(model, scope), [(expression, FLOAT)]))


def kept_channels(model: str, scope: str, expression: str) -> list[str]:
    """Those of which a rule with channels, as in "in_proj.tap_in:61,17", names channels.

    Raises:
        ValueError: as for `kept_sites`, or channels that cannot be read.
    """
    from ouro.quant.bits import FLOAT
    from ouro.quant.plan import kept_channels as found

    return list(found(sites(model, scope), [(expression, FLOAT)]))


def groups(model: str, scope: str, by: str) -> dict[str, tuple[str, ...]]:
    """What counts as one where damage is measured -> paths of its tensors, see `ouro.jobs.sensitivity.parts`."""
    return _groups(model, scope, by, _stamp({"model": model}))


@lru_cache(maxsize=8)
def _groups(model: str, scope: str, by: str, stamp: str) -> dict[str, tuple[str, ...]]:
    from ouro.jobs.sensitivity import parts

    with _CLICK:
        return parts(_model(model), scope, by)


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


def same(report: Any) -> dict[str, Any]:
    """What is compared of a report of `ouro.jobs.agreement` later: which images have the float model's answer, as a whole."""
    from ouro.evaluate.paired import packed

    shares = report.arrays["same"]
    # of maps and boxes it is a part, which is nothing to count
    return {"same": [packed(shares == 1)]} if ((shares == 0) | (shares == 1)).all() else {}


def between(better: Sequence[Mapping[str, Any]], worse: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """How far the first runs are ahead of the others, see `ouro.evaluate.paired.between`."""
    from ouro.evaluate.paired import between as gap

    return gap(better, worse, metric)


def synthesis_job(**spec: Any) -> Generator[Any, None, Any]:
    """The job behind the Samples tab."""
    from ouro.jobs.synthesize import SynthesisSpec, synthesize

    asked = SynthesisSpec(**_sourced(spec))

    def job() -> Generator[Any, None, Any]:
        run = _stored_run(spec["model"], asked, options=dict(asked.options))
        finished = run is not None and run.report() is not None
        if not runner.from_store(finished) and finished:
            # the report first: what is to be made for real is unfinished from here on
            for name in ("report.json", *(f"{chunk}.safetensors" for chunk in run.chunks())):
                (run.path / name).unlink(missing_ok=True)
        return (yield from synthesize(asked))

    return _named(job(), spec["model"])


def quality_job(**spec: Any) -> Generator[Any, None, Any]:
    """What sets of images are worth, measured against real ones."""
    from ouro.jobs.quality import QualitySpec, quality

    return _named(quality(QualitySpec(**_sourced(spec))), spec["model"])


def quantize_job(**spec: Any) -> Generator[Any, None, Any]:
    """Calibration of one configuration."""
    from ouro.jobs.quantize import QuantizeSpec, quantize

    asked = QuantizeSpec(**_sourced(spec))

    def job() -> Generator[Any, None, Any]:
        run = _stored_run(spec["model"], asked, job="quantize", options=dict(asked.options))
        return (yield from _once("quantize", run, lambda: quantize(asked), asked.calib))

    return _worded(_named(job(), spec["model"]), asked.calib)


def sensitivity_job(**spec: Any) -> Generator[Any, None, Any]:
    """What rounding the sites of one configuration costs."""
    from ouro.jobs.sensitivity import SensitivitySpec, measure_sensitivity

    asked = SensitivitySpec(**_sourced(spec))

    def job() -> Generator[Any, None, Any]:
        data = asked.data or own_data(spec["model"])

        def run() -> Any:
            return _stored_run(spec["model"], asked, job="sensitivity", data=data, options=dict(asked.options))

        report = yield from _once("sensitivity", run(), lambda: measure_sensitivity(asked), asked.calib, data)
        return replace(report, values={**report.values, "run": run().path.name})

    return _worded(_named(job(), spec["model"]), asked.calib)


def set_called(path: str) -> str:
    """What people call the generated set in a file: "16 ouro", with its seed unless that is 0."""
    from ouro.store import Run

    try:
        spec = Run(Path(path).parent).spec()
        seed = f" (seed {spec['seed']})" if spec["seed"] else ""
        return f"{spec['num']} {spec['method']}{seed}"
    except (OSError, ValueError, KeyError):
        # it was deleted, or comes from elsewhere
        return "synthetic"


def _worded(job: Generator[Any, None, Any], calib: str) -> Generator[Any, None, Any]:
    """The job, whose words call a generated set by its name."""
    if not calib.endswith(".safetensors"):
        return job
    name = set_called(calib)
    return mapped(job, lambda progress: replace(progress, message=progress.message.replace(calib, name)))


def _stored_run(model: str, asked: Any, **more: Any) -> Any:
    """The run of a spec, as its job would open it, if it was opened before."""
    from ouro.jobs.inputs import identity
    from ouro.store import Store

    return Store().find(identity(asked, _model(model), **more))


def block_error(path: str) -> dict[str, list[float]]:
    """{block_error}: how far every section's output is from the float model's, as a quantized file says; {} without one.

    Raises:
        ValueError: it is damaged.
    """
    from ouro.quant.header import read_header
    from ouro.store import read_metadata

    try:
        metadata = read_metadata(path)
    except FileNotFoundError:
        return {}
    errors = [float(block["error"]) for block in read_header(metadata)[2].get("blocks", ()) if "error" in block]
    return {"block_error": errors} if errors else {}


OUTCOMES = "outcomes"
"""File of a run that has what came of every image."""


def _once(
    kind: str, run: Any, make: Callable[[], Generator[Any, None, Any]], *images: str
) -> Generator[Any, None, Any]:
    """The stored report of a finished run, or else what the job makes.

    Args:
        images: data that it depends on; what lies in files may have changed since.
    """
    from ouro.jobs.provenance import run_info
    from ouro.types import Progress, Report

    report = None if run is None or any(map(_may_change, images)) else run.report()
    there = report is not None and Path(report.get("path", run.path)).exists()
    if not runner.from_store(there):
        return (yield from make())
    yield Progress(1, 1, "found in the store")
    made = run_info(report.get("seed", 0), time.perf_counter(), run.spec().get("device", "cpu"))
    return Report(kind, report, made, run.load_tensors(OUTCOMES) or {})


def _may_change(data: str) -> bool:
    """Whether images are in files or folders other than the store's, whose sets are never written anew."""
    from ouro.data.source import parse
    from ouro.store import Store

    path = parse(data).argument
    return bool(path) and not Path(path).is_relative_to(Store().folder)


def measure_job(kind: str, **spec: Any) -> Generator[Any, None, Any]:
    """The "accuracy" of a quantized file, or its "agreement" with the float model on images without labels.

    What is measured of a file in the store is kept there as a run of its own.
    """
    from ouro.jobs.agreement import AgreementSpec, agreement
    from ouro.jobs.evaluate import EvaluateSpec, evaluate
    from ouro.store import Run, Store

    def measured() -> Generator[Any, None, Any]:
        return evaluate(EvaluateSpec(**spec)) if kind == "accuracy" else agreement(AgreementSpec(**spec))

    folder = Path(spec["model"]).parent
    if folder.parent != Store().folder or not (folder / "spec.json").exists():
        return measured()

    def job() -> Generator[Any, None, Any]:
        made = Run(folder).spec()
        shared = {key: made[key] for key in ("model", "weights", "method", "bits", "scope", "calib") if key in made}
        asked = {key: value for key, value in spec.items() if key != "model"}
        run = Store().open({"job": kind, "run": folder.name, **shared, **asked})
        kept = run.path / "report.json"
        # a file that was written after it was measured was measured as another one
        fits = kept.exists() and kept.stat().st_mtime_ns >= Path(spec["model"]).stat().st_mtime_ns

        def kept_after() -> Generator[Any, None, Any]:
            report = yield from measured()
            # what came of every image first: a report says that the run is whole
            run.save_tensors(report.arrays, name=OUTCOMES)
            run.save_report(report.values)
            return report

        return (yield from _once(kind, run if fits else None, kept_after, str(spec.get("data", ""))))

    return job()


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
        library.ready()
        catalog()
        health()
        memory.give_back()
    except Exception:
        # the page says what is wrong when it asks itself
        log.exception("warm-up failed")
