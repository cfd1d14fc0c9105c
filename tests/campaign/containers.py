"""Files of weights, quantized models, calibration sets and stored runs: damaged in every way, then opened."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import struct
import zipfile
from collections import OrderedDict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ouro.data.source import open_data
from ouro.jobs.bench.compare import compare
from ouro.jobs.calibration import calibration_set
from ouro.jobs.inputs import load_quantized, open_model
from ouro.jobs.synthesize import synthesize
from ouro.models import create_model, inspect
from ouro.progress import finish
from ouro.types import ModelSource
from ouro.vision import VisionModel
from tests.campaign import material as made
from tests.campaign import mutate
from tests.campaign.registry import MARKER, Offence, Trial, Verdict, kind, tried

_FORWARD = 0.1
"""Part of the accepted models that are run as well; loading checks their numbers."""


# ---- weights ---------------------------------------------------------------------------------------------------


def opened(trial: Trial, path: Path, name: str) -> Verdict:
    """A file of weights, opened in one of the ways that there are."""
    draw = trial.rng.random()
    # where all is said nothing has to be read from the file, which takes a third of the time
    if draw < 0.4:
        known = made.TINY if name == made.MODEL else {}
        return tried(lambda: sane(trial, create_model(name, pretrained=path, **known)))
    if draw < 0.6:
        return tried(lambda: sane(trial, create_model(name, pretrained=path)))
    if draw < 0.7:
        return tried(lambda: sane(trial, create_model(name, pretrained=path, num_classes=3)))
    if draw < 0.8:
        return tried(lambda: sane(trial, open_model(ModelSource(name, str(path)), "cpu")))
    return tried(lambda: inspect(str(path), name if draw < 0.9 else None))


def sane(trial: Trial, model: VisionModel) -> None:
    """What was accepted has numbers only, and runs.

    Raises:
        Offence: it holds NaN or infinity.
    """
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise Offence(f"accepted with NaN or infinity in {key}")
    if trial.rng.random() < _FORWARD and model.info.task == "classification":
        with torch.no_grad():
            model(torch.zeros(1, *model.info.input_size))


def drawn_model(trial: Trial) -> str:
    """The small model that is cheapest to open, mostly."""
    return made.MODEL if trial.rng.random() < 0.7 else trial.rng.choice(made.OTHERS)


@kind("safetensors: header", 16)
def safetensors_header(trial: Trial) -> Verdict:
    name = drawn_model(trial)
    data = mutate.damaged_header(trial.rng, trial.material.files[f"{name}.safetensors"])
    return opened(trial, trial.write("w.safetensors", data), name)


@kind("safetensors: bytes", 10)
def safetensors_bytes(trial: Trial) -> Verdict:
    name = drawn_model(trial)
    data = mutate.damaged_bytes(trial.rng, trial.material.files[f"{name}.safetensors"])
    return opened(trial, trial.write("w.safetensors", data), name)


@kind("safetensors: tensors", 8)
def safetensors_tensors(trial: Trial) -> Verdict:
    name = drawn_model(trial)
    tensors = mutate.damaged_tensors(trial.rng, trial.material.states[name])
    metadata = {"model": trial.rng.choice((name, "vim_nano", "x"))} if trial.rng.random() < 0.5 else None
    data = save({key: value.contiguous() for key, value in tensors.items()}, metadata)
    return opened(trial, trial.write("w.safetensors", data), name)


# ---- pickles ---------------------------------------------------------------------------------------------------


@kind("pickle: bytes", 7)
def pickle_bytes(trial: Trial) -> Verdict:
    name = drawn_model(trial)
    data = trial.material.files[f"{name}{trial.rng.choice(('', '_legacy'))}.pth"]
    # the pickle inside of a zip archive is what is worth most; its checksum would be wrong
    data = inner(trial, data) if zipfile.is_zipfile(io.BytesIO(data)) and trial.rng.random() < 0.6 else None or (
        mutate.damaged_bytes(trial.rng, data)
    )  # fmt: skip
    return opened(trial, trial.write("w.pth", data), name)


def inner(trial: Trial, data: bytes) -> bytes:
    """The archive with one of its members damaged, dropped, doubled or renamed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as before, zipfile.ZipFile(out, "w") as after:
        names = before.namelist()
        pickled = next(name for name in names if name.endswith("data.pkl"))
        target = pickled if trial.rng.random() < 0.7 else trial.rng.choice(names)
        for name in names:
            content = before.read(name)
            if name == target:
                if (draw := trial.rng.random()) < 0.05:
                    continue
                name = f"../{name}" if draw < 0.1 else name
                content = mutate.damaged_bytes(trial.rng, content) if draw < 0.9 else spliced(trial, content)
            after.writestr(name, content)
    return out.getvalue()


def spliced(trial: Trial, content: bytes) -> bytes:
    """A pickle with foreign operations in it."""
    operations = (
        b"cos\nsystem\n", b"(X\x01\x00\x00\x00xtR", b"R", b"b", b"N", b"}", b"]", b"(", b"t", b"s", b"u", b"0", b"2", b"h\x00",
        b"\x81", b"\x82\x01", b"Q", b"ctorch\nTensor\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"K\x05", b"a", b"e",
        b"ccollections\nOrderedDict\n", b"\x85", b"\x86", b"\x87", b"I99999999999\n", b"G\x7f\xf8\x00\x00\x00\x00\x00\x00",
    )  # fmt: skip
    for _ in range(trial.rng.choice((1, 2, 5))):
        at = trial.rng.randrange(len(content) + 1)
        content = content[:at] + trial.rng.choice(operations) + content[at:]
    return content


@kind("pickle: content", 6)
def pickle_content(trial: Trial) -> Verdict:
    name = drawn_model(trial)
    state: dict[Any, Any] = dict(mutate.damaged_tensors(trial.rng, trial.material.states[name]))
    for _ in range(trial.rng.choice((0, 1, 2))):
        key = trial.rng.choice([*state, "extra"])
        state[trial.rng.choice((key, 3, None, (1, 2), 0.5, b"x"))] = drawn_object(
            trial, trial.material.states[name].get(key)
        )
    content: Any = state
    for _ in range(trial.rng.choice((0, 0, 1, 1, 2, 9))):
        wrapper = trial.rng.choice(("model", "state_dict", "model_ema", "ema", "x", 7))
        content = {wrapper: content, trial.rng.choice(("epoch", "model", "optimizer")): drawn_object(trial, None)}
    if trial.rng.random() < 0.05:
        content = trial.rng.choice((list(state.values()), None, 3, "x", set(), torch.ones(2), ()))
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=trial.rng.random() < 0.7)
    return opened(trial, trial.write("w.pth", file.getvalue()), name)


def drawn_object(trial: Trial, value: Tensor | None) -> Any:
    """Something that scripts might have saved, or nobody would."""
    value = torch.ones(2, 2) if value is None else value
    like = value if value.dim() == 2 and value.is_floating_point() else torch.ones(2, 2)
    makers = (
        lambda: value.to_sparse(), lambda: value.to("meta"), lambda: torch.nn.Parameter(like), lambda: value.tolist(),
        lambda: like.to_sparse_csr(), lambda: torch.quantize_per_tensor(like.float(), 0.1, 0, torch.qint8),
        lambda: torch.complex(like.float(), like.float()), lambda: like.expand(9, *like.shape), lambda: like.T,
        lambda: value.numpy() if value.dtype != torch.bfloat16 else None, lambda: OrderedDict(a=value), lambda: {"b": {}},
        lambda: None, lambda: 3, lambda: "x", lambda: [value], lambda: float("nan"), lambda: torch.Size([1]),
        lambda: torch.float16, lambda: torch.device("cpu"), lambda: slice(2), lambda: {1, 2}, lambda: b"x", lambda: value.flatten()[:0],
        lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.jagged),
    )  # fmt: skip
    return trial.rng.choice(makers)()


@kind("pickle: code", 9)
def pickle_code(trial: Trial) -> Verdict:
    marker = trial.folder / MARKER
    bomb = bombs(str(marker))
    payload = trial.rng.choice(bomb)
    state = dict(trial.material.states[made.MODEL])
    places: list[Any] = [
        payload,
        {"model": state, "x": payload},
        {**state, "x": payload},
        [payload],
        {"model": payload},
    ]
    content = trial.rng.choice(places)
    draw, file = trial.rng.random(), io.BytesIO()
    if draw < 0.5:
        torch.save(content, file, _use_new_zipfile_serialization=draw < 0.3)
        data = file.getvalue()
    else:
        data = pickle.dumps(content, protocol=trial.rng.choice((0, 2, 4, 5)))
    if trial.rng.random() < 0.2:
        data = mutate.damaged_bytes(trial.rng, data)
    suffix = trial.rng.choice((".pth", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".safetensors", ""))
    return opened(trial, trial.write(f"w{suffix}", data), made.MODEL)


class _Calls:
    """Pickled, it is a call of a function by its name."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.call = (module, name, arguments)

    def __reduce__(self) -> Any:
        module, name, arguments = self.call
        function: Any = import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
        return function, arguments


def bombs(marker: str) -> list[Any]:
    """Objects that make a file as soon as their pickle is trusted."""
    code = f"open({marker!r}, 'w')"
    return [
        _Calls("os", "system", f"touch {marker}"), _Calls("builtins", "exec", code), _Calls("builtins", "eval", code),
        _Calls("builtins", "open", marker, "w"), _Calls("subprocess", "call", ["touch", marker]), _Calls("io", "open", marker, "w"),
        _Calls("pathlib", "Path.touch", Path(marker)), _Calls("shutil", "copyfile", os.devnull, marker), _Calls("os", "mknod", marker),
        _Calls("torch", "save", 1, marker), _Calls("numpy", "savetxt", marker, [1.0]), _Calls("torch.hub", "load_state_dict_from_url", marker),
        _Calls("builtins", "getattr", _Calls("builtins", "__import__", "os"), "system"), 
        _Calls("functools", "partial", os.system, f"touch {marker}"),
        _Calls("torch._utils", "_rebuild_tensor_v2", _Calls("os", "system", f"touch {marker}"), 0, (1,), (1,), False, OrderedDict()),
    ]  # fmt: skip


# ---- what our own jobs write -----------------------------------------------------------------------------------


def damaged_file(trial: Trial, data: bytes) -> bytes:
    """One of our safetensors files, damaged where it says most."""
    draw = trial.rng.random()
    if draw < 0.5:
        return mutate.damaged_metadata(trial.rng, data)
    if draw < 0.65:
        return mutate.damaged_header(trial.rng, data)
    if draw < 0.75:
        return mutate.damaged_bytes(trial.rng, data)
    tensors, metadata = made.tensors_of(data, trial.folder)
    tensors = {key: value.contiguous() for key, value in mutate.damaged_tensors(trial.rng, tensors).items()}
    return save(tensors, metadata)


@kind("quantized file", 8)
def quantized_file(trial: Trial) -> Verdict:
    return _loaded(trial, "quantized")


@kind("packed file", 6)
def packed_file(trial: Trial) -> Verdict:
    return _loaded(trial, "packed")


def _loaded(trial: Trial, form: str) -> Verdict:
    name = f"{form}_{trial.rng.choice(('minmax', 'ouro'))}.safetensors"
    path = trial.write("q.safetensors", damaged_file(trial, trial.material.files[name]))
    return tried(lambda: sane(trial, load_quantized(path)[0]))


@kind("calibration set", 10)
def stored_set(trial: Trial) -> Verdict:
    path = str(trial.write("set.safetensors", damaged_file(trial, trial.material.files["set.safetensors"])))
    model = tiny(trial)
    if trial.rng.random() < 0.5:
        return tried(lambda: open_data(path, "test", model.info).images(0, 1))
    return tried(lambda: calibration_set(path, made.MODEL, model, 0).images.mean())


_TINY: dict[str, VisionModel] = {}


def tiny(trial: Trial) -> VisionModel:
    """The small model, opened once in a process."""
    if "" not in _TINY:
        _TINY[""] = open_model(trial.material.source, "cpu")
    return _TINY[""]


# ---- stored runs -----------------------------------------------------------------------------------------------


def damaged_home(trial: Trial, *kinds: str) -> Path:
    """A copy of the stored runs, in which one file of a run with one of these words in its spec is damaged."""
    home = trial.folder / "home"
    shutil.copytree(trial.material.home, home)
    runs = [folder for folder in sorted((home / "runs").iterdir()) if _is_one_of(folder, kinds)]
    folder = trial.rng.choice(runs)
    target = trial.rng.choice(sorted(folder.iterdir()))
    data = target.read_bytes()
    if target.suffix == ".json":
        # the content itself mostly, as another version or another hand might have left it
        target.write_bytes(mutate.damaged_json(trial.rng, made.json_of(target)))
    else:
        target.write_bytes(damaged_file(trial, data))
    if trial.rng.random() < 0.05:
        target.unlink()
        if trial.rng.random() < 0.5:
            target.mkdir()
    return home


def _is_one_of(folder: Path, kinds: tuple[str, ...]) -> bool:
    spec = made.json_of(folder / "spec.json")
    return (str(spec.get("job", "generation"))) in kinds


@kind("stored chunks", 1)
def stored_chunks(trial: Trial) -> Verdict:
    home = damaged_home(trial, "generation")
    num = trial.rng.choice((4, 4, 4, 2))
    return tried(
        lambda: _whole_set(finish(synthesize(made.synthesis(trial.material, num), root=home)).arrays["images"])
    )


def _whole_set(images: Tensor) -> None:
    if not images.isfinite().all() or images.dtype != torch.float32:
        raise Offence("a set is made of chunks with NaN or of another type")


@kind("stored cells", 2)
def stored_cells(trial: Trial) -> Verdict:
    home = damaged_home(trial, "paired compare")

    def filled() -> None:
        values = finish(compare(made.comparison(trial.material), root=home)).values
        for row in values["rows"]:
            if not (0 <= row["top1"] <= 1 and row["ci95"][0] <= row["top1"] <= row["ci95"][1]):
                raise Offence("a table is made of a cell that cannot be")

    return tried(filled)


@kind("shape of a header", 4)
def huge_header(trial: Trial) -> Verdict:
    """A header that promises more than there is: nothing of that size may be allocated."""
    name = drawn_model(trial)
    header, body = mutate.split(trial.material.files[f"{name}.safetensors"])
    key = trial.rng.choice([key for key in header if key != "__metadata__"])
    side = trial.rng.choice((10**6, 10**9, 2**31))
    header[key]["shape"] = [side, *header[key]["shape"][1:]]
    if trial.rng.random() < 0.5:
        # as long as it says, in a file that takes no room on disk
        size = 4
        for part in header[key]["shape"]:
            size *= part
        if size < 2**40:
            header[key]["data_offsets"] = [len(body), len(body) + size]
            text = mutate.dumped(header)
            path = trial.write("w.safetensors", struct.pack("<Q", len(text)) + text + body)
            os.truncate(path, 8 + len(text) + len(body) + size)
            return opened(trial, path, name)
    return opened(trial, trial.write("w.safetensors", mutate.joined(header, body)), name)
