"""What every test relies on: a quiet and repeatable machine, poisoned memory, and a folder of its own."""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._device import _device_constructors

from ouro._torchvision_ops import declare_missing_ops

# triton reads this when it is first imported, which importing torch does not do
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# numba reads this when it is first imported
os.environ.setdefault("NUMBA_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
# jsonschema, under nbformat, does without: it compiles a grammar of addresses when imported, for seconds of a core
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
# no test leaves this machine
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("MPLBACKEND", "agg")
# processes that share a suite share the cores
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, torch.get_num_threads()))

# what `torch.device` as a context looks for, listed before any of it is poisoned
_device_constructors()

# a test may import timm before anything of ours
declare_missing_ops()

_PAGES = "tests/workbench/"
_LONGEST = (_PAGES, "tests/notebooks/", "tests/kernels/", "tests/ouro/jobs/")
"""Folders whose files take longest."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full", action="append", default=[], type=Path, metavar="FOLDER",
        help="also what is marked `full` under this folder of the tests; repeatable",
    )  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what is marked `full`, unless it is asked for or its file is named, and begins with what takes longest."""
    asked = [folder.resolve() for folder in config.getoption("--full")]
    named = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    wanted = [*asked, *(path for path in named if path.is_file())]
    left_out = {
        item
        for item in items
        if item.get_closest_marker("full") and not any(item.path.is_relative_to(path) for path in wanted)
    }
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
    # workers that take a file each end together if the last files are short
    items.sort(key=_rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of two workers one opens all pages: the other one needs neither a browser nor an app, which take long to start."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _PAGES if nodeid.startswith(_PAGES) else super()._split_scope(nodeid)

    # of more, it would be the last one
    return Scheduling(config, log) if len(config.getoption("tx")) == 2 else None


def pytest_collection_finish() -> None:
    """What is there before the first test stays: to look through it for garbage takes half a second, and finds none."""
    gc.collect()
    gc.freeze()


def _rank(item: pytest.Item) -> int:
    return next((rank for rank, folder in enumerate(_LONGEST) if item.nodeid.startswith(folder)), len(_LONGEST))


_DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def _poisoned(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The allocator, with NaN in all it returns: what is read before it is written shows up in the result."""

    @functools.wraps(allocate)
    def allocate_poisoned(*args: object, **kwargs: object) -> torch.Tensor:
        tensor = allocate(*args, **kwargs)
        if type(tensor) is torch.Tensor and tensor.is_floating_point() and tensor.device.type in ("cpu", "cuda"):
            with torch.no_grad():
                tensor.fill_(torch.nan)
        return tensor

    return allocate_poisoned


@pytest.fixture(autouse=True)
def poison_empty(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fills with NaN what torch.empty, torch.empty_like and Tensor.new_empty leave undefined."""
    if request.node.get_closest_marker("unpoisoned"):
        # torch.compile may have made its table of torch's functions in a poisoned test
        if rules := sys.modules.get("torch._dynamo.trace_rules"):
            rules.get_torch_obj_rule_map.cache_clear()
        return
    monkeypatch.setattr(torch, "empty", _poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", _poisoned(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", _poisoned(torch.Tensor.new_empty))


@pytest.fixture(scope="session", autouse=True)
def share_cores() -> None:
    """One thread of numba's in each of several processes; a test of more asks for them."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        import numba

        numba.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def ouro_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of the session for whatever the project keeps for its user."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("ouro_home")
        patch.setenv("OURO_HOME", str(home))
        yield home


@pytest.fixture(params=_DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, and a CUDA device where there is one."""
    return torch.device(request.param)
