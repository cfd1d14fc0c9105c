"""What a job works on, from what a person wrote: a model on its device, a data set that fits it, calibration images.

The one place where weights, data and devices come in. A model source is a name, or a name with weights of one's own;
data sources are spelled as `ouro.data.source.parse` reads them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ouro.data import Dataset, load
from ouro.data.fitted import Fitted
from ouro.data.folder import eval_transform, pictures
from ouro.data.picture import read_image
from ouro.data.source import FILE, open_data, own_data, parse, spelled
from ouro.models import create_model, variant
from ouro.quant.apply import attach_calibration, check_weights, from_tensors, weights_digest
from ouro.quant.header import read_header
from ouro.quant.packed.files import PACKED_FORMAT, restore
from ouro.registry import DATASETS
from ouro.store import one_line, read_tensors
from ouro.streams import drawing
from ouro.tasks import task_of
from ouro.types import Calibration, DataSource, ModelInfo, ModelSource
from ouro.vision import VisionModel


def source_of(model: str | ModelSource) -> ModelSource:
    """A name alone is a source: that of its published or embedded weights."""
    return model if isinstance(model, ModelSource) else ModelSource(model)


def device_of(device: str) -> torch.device:
    """The device that "auto" (CUDA where it is), "cpu", "cuda" or "cuda:1" stands for.

    Of several CUDA devices without a number, each process that torchrun started takes its own.

    Raises:
        ValueError: another word, or a CUDA device that is not there.
    """
    kind, colon, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise ValueError(f"device is {device!r}, allowed are auto, cpu, cuda and cuda:0, cuda:1 ...")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cpu" or (kind == "auto" and not count):
        return torch.device("cpu")
    # torchrun numbers the processes of a machine
    chosen = int(number) if number else int(os.environ.get("LOCAL_RANK", "0")) % max(1, count)
    if chosen >= count:
        there = (
            f"this machine has {count} CUDA device{'s' * (count != 1)}" if count else "this machine has no CUDA device"
        )
        raise ValueError(f"device is {device!r}, but {there}; take auto or cpu")
    return torch.device("cuda", chosen)


def open_model(source: str | ModelSource, device: str = "auto") -> VisionModel:
    """The model of a source, with its weights, on its device.

    Raises:
        ValueError: an unknown name, option or device, weights that do not fit, or names for another number of classes.
    """
    source, place = source_of(source), device_of(device)
    model = create_model(source.name, pretrained=source.weights or True, **_config(source))
    return model.to(place)


def open_untrained(source: str | ModelSource, seed: int) -> VisionModel:
    """A model whose weights may be made up: its embedded ones, those that the source names, or else random ones.

    Raises:
        ValueError: see `open_model`.
    """
    source = source_of(source)
    if source.weights or variant(source.name).embedded:
        return open_model(source, "cpu")
    with drawing(seed):
        return create_model(source.name, **_config(source))


def _config(source: ModelSource) -> dict[str, Any]:
    named = {"class_names": source.class_names} if source.class_names else {}
    return dict(source.config) | named


def identity(spec: Any, model: VisionModel, **more: Any) -> dict[str, Any]:
    """What a run depends on, for `ouro.store.digest`: the spec with its weights by content, wherever their file lies.

    The CPU is every CPU; another kind of device rounds otherwise and is another run. A field marked "late" says nothing
    at its default, so that runs from before it came are found.
    """
    late = {
        field.name
        for field in fields(spec)
        if field.metadata.get("late") and getattr(spec, field.name) == field.default
    }
    described = {key: value for key, value in asdict(spec).items() if key not in late | {"out", "device"}}
    source: ModelSource = spec.model
    described |= {"model": source.name, "weights": weights_digest(model)}
    if source.config:
        described["config"] = {key: list(x) if isinstance(x, tuple) else x for key, x in source.config}
    # they say which class of a data set is which of the model's
    described |= {"class_names": list(source.class_names)} if source.class_names else {}
    kind = model.device.type
    described |= {} if kind == "cpu" else {"device": kind}
    return described | more


def data_digest(source: str | DataSource) -> str:
    """First 16 hex digits of the SHA-256 over a set's files: their names in the set, sizes and times of change.

    A picture that came, went, got another name or was written anew makes another digest; where the set lies and how many
    of its images are taken is not in it. Contents are not read, as there may be a million. A stored set is one file. ""
    for sets without files.

    Raises:
        ValueError: an unknown set, or a list of pictures that cannot be read.
        OSError: there is no such folder or file, or it may not be read.
    """
    source = parse(source)
    stored = source.kind == FILE
    if not stored and (source.kind not in DATASETS or not DATASETS.get(source.kind).files):
        return ""
    root, total = Path(source.argument), sha256()
    if stored:
        files, root = [root], root.parent
    elif root.is_file():
        # a list of pictures, which may lie in folders beside its own
        files = [root, *(entry[1] for entry in cast(Any, load(f"{source.kind}:{root}")).pictures)]
        root = root.parent
    else:
        files = list(_walked(root))
    for name, file in sorted((os.path.relpath(file, root), file) for file in files):
        facts = file.stat()
        total.update(os.fsencode(name) + f"\0{facts.st_size} {facts.st_mtime_ns}\n".encode())
    return total.hexdigest()[:16]


def data_key(data: str | DataSource, info: ModelInfo) -> dict[str, str]:
    """What a kept result depends on of the images that it was measured on: {data: how they are spelled out}, and of files
    {pictures: their digest}, see `data_digest`."""
    source = parse(own_data(data, info))
    digest = data_digest(source)
    return {"data": spelled(source)} | ({"pictures": digest} if digest else {})


def _walked(root: Path) -> Iterator[Path]:
    """The pictures in and below a folder, and the texts there, which name classes; hidden ones are none of a set's."""
    root.stat()
    seen = set()
    for folder, inside, _ in os.walk(root, followlinks=True):
        facts = os.stat(folder)
        # a link may lead to a folder that holds it
        again = (facts.st_dev, facts.st_ino) in seen
        seen.add((facts.st_dev, facts.st_ino))
        inside[:] = [] if again else sorted(name for name in inside if not name.startswith("."))
        if not again:
            yield from pictures(Path(folder))
            yield from Path(folder).glob("[!.]*.txt")


def provenance_of(source: ModelSource, model: VisionModel) -> dict[str, Any]:
    """What a file has to say of its model to open it again: where its weights lie, and how it differs from its variant.

    What was read from the weights is written down as well: a packed file is opened without them.
    """
    usual, built = variant(source.name).config, model.config
    differs = {field.name: getattr(built, field.name) for field in fields(built)}
    config = {key: value for key, value in differs.items() if value != getattr(usual, key)}
    weights = os.path.abspath(source.weights) if os.path.exists(source.weights) else source.weights
    return {key: value for key, value in (("weights", weights), ("config", config)) if value}


def source_from(name: str, kept: Mapping[str, Any]) -> ModelSource:
    """The inverse of `provenance_of`."""
    return ModelSource(
        name, kept.get("weights", ""), tuple((key, _frozen(x)) for key, x in kept.get("config", {}).items())
    )


def _frozen(value: Any) -> Any:
    """JSON's lists as the tuples that configs hold."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def open_quantized(
    path: str | os.PathLike[str], weights: str = "", device: str = "auto"
) -> tuple[VisionModel, Calibration, ModelSource]:
    """(quantized model, its calibration, source of its float model) of a file that the job `quantize` wrote.

    Args:
        weights: where the float model's weights lie now; "" looks where they were.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, no quantized model, one of a model that is not known here, or of other weights.
    """
    place = device_of(device)
    try:
        tensors, metadata = read_tensors(path)
        if metadata.get("format") == PACKED_FORMAT:
            # it holds its own weights: only how the model is built is needed
            source = _source_in(read_header(metadata)[2])
            model, calibration = restore(create_model(source.name, **_config(source)), tensors, metadata)
            if weights:
                # of the model that it was made from all the same, as whoever names them compares the two
                source = replace(source, weights=weights)
                open_float(source, calibration, "cpu")
            return model.to(place), calibration, source
        calibration = from_tensors(tensors, metadata)
        source = _source_in(calibration.provenance)
        source = replace(source, weights=weights or source.weights)
        return attach_calibration(open_float(source, calibration, device), calibration), calibration, source
    except ValueError as error:
        # what a damaged header says may be quoted there, with lines of its own
        raise ValueError(f"cannot load {path}: {one_line(error, 900)}") from error


def load_quantized(path: str | os.PathLike[str], weights: str = "") -> tuple[VisionModel, Calibration]:
    """The quantized model in a file and its calibration, on the CPU; see `open_quantized`."""
    return open_quantized(path, weights, "cpu")[:2]


def _source_in(provenance: Mapping[str, Any]) -> ModelSource:
    return source_from(provenance["model"], provenance.get("source", {}))


def open_float(source: ModelSource, calibration: Calibration, device: str = "auto") -> VisionModel:
    """The float model behind a calibration.

    Raises:
        ValueError: its weights are no longer where they were, or others lie there.
    """
    if os.path.isabs(source.weights) and not os.path.exists(source.weights):
        digest = calibration.provenance.get("weights", "unknown")
        raise ValueError(
            f"it belongs to weights of {source.name} (digest {digest}) that lay at {source.weights} and are not there; "
            "say where they are with --weights"
        )
    model = open_model(source, device)
    check_weights(model, calibration)
    return model


def one_image(info: ModelInfo, sample: int | None, image: str | None, data: str = "") -> tuple[Tensor, str]:
    """(uint8 [1 3 h w], where it is from): the file `image`, or `sample` of the test split of `data`.

    Raises:
        ValueError: neither of the two, no such sample, or a file that cannot be read.
    """
    if image is not None:
        return image_file(image, info), image
    if sample is None:
        raise ValueError("there is nothing to look at: give a sample or an image file")
    name, dataset = own_data(data, info), open_data(data, "test", info)
    check_sample(sample, name, dataset)
    return dataset.images(sample, 1)[0], f"{name} {sample}"


def check_sample(sample: int, name: str, dataset: Dataset) -> None:
    """Refuses an image that a data set does not have.

    Raises:
        ValueError: the message has what is there.
    """
    if not 0 <= sample < len(dataset):
        raise ValueError(f"sample is {sample}, the test split of {name} has 0 to {len(dataset) - 1}")


def image_file(path: str, info: ModelInfo) -> Tensor:
    """An image file as the model sees it in a set of its task, uint8 [1 3 h w]: cut as in a folder, or fitted whole.

    Raises:
        ValueError: it cannot be read.
    """
    image = read_image(Path(path))
    if task_of(info).targets == "labels":
        return eval_transform(info.input_size, info.crop_pct, info.interpolation)(image).unsqueeze(0)
    height, width = info.input_size[1:]
    return Fitted((height, width), info.mean, info.interpolation).picture(image).unsqueeze(0)
