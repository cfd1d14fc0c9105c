"""Options that commands share, and how what was typed becomes what specs hold."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from ouro.types import ModelSource

    Source: TypeAlias = ModelSource
else:
    # typer evaluates annotations, and importing the type would import torch, which --help does without
    Source = object

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else.")]
Out = Annotated[Path | None, typer.Option(help="Also write the JSON here.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0, max=2**53 - 1)]
Device = Annotated[str, typer.Option(help="auto (CUDA where it is), cpu, cuda or cuda:1.")]
Data = Annotated[
    str,
    typer.Option(
        help="Images to measure on: a registered set, folder:PATH, either with :N for the first N of them, or the path of a "
        "generated set; the model's own set by default."
    ),
]
CALIB = "real:N, noise:N, synthetic:N, a registered set, folder:PATH, folder:PATH:N, or the path of a generated set."
Calib = Annotated[str, typer.Option(help=CALIB)]
Scope = Annotated[str, typer.Option(help="What is quantized: lin, ssm, rec or full.")]
Options = Annotated[list[str], typer.Option("--option", help="Setting of the method, as name=value; repeatable.")]
Limit = Annotated[int, typer.Option(help="Held-out images to measure on.", min=1)]
Workers = Annotated[int, typer.Option(help="Processes that share the cores.", min=1)]
Engine = Annotated[
    str,
    typer.Option(help="Address of a Dask scheduler, as in tcp://host:8786: its workers in place of processes here."),
]

_MODEL: dict[str, tuple[Any, Any]] = {
    "model": (Annotated[str, typer.Argument(help="A model name; `ouro models` lists them.")], inspect.Parameter.empty),
    "weights": (
        Annotated[
            str,
            typer.Option(
                help="A checkpoint in place of the published weights: a file, a URL, or a hub file as "
                "org/name:file@revision. Size and number of classes are read from it."
            ),
        ],
        "",
    ),
    "config": (
        Annotated[
            list[str],
            typer.Option(
                help="What differs from the registered variant, as image=[224,320] or num_classes=10; repeatable."
            ),
        ],
        (),
    ),
    "class_names": (
        Annotated[
            Path | None,
            typer.Option(
                help="A file with the name of a class in each line, or a JSON list of them, in the order of the head."
            ),
        ],
        None,
    ),
}
"""Options that together say where a model comes from -> (annotation, default)."""


def takes_model(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of `_MODEL` in the place of its parameter `source`, which gets the ModelSource."""
    before = inspect.signature(command, eval_str=True)

    def run(**given: Any) -> None:
        own = {name: given.pop(name) for name in _MODEL}
        command(source=model_source(own["model"], own["weights"], own["config"], own["class_names"]), **given)

    parameters = []
    for parameter in before.parameters.values():
        if parameter.name == "source":
            parameters += [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
                for name, (annotation, default) in _MODEL.items()
            ]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    run.__signature__ = before.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
    return run


def model_source(model: str, weights: str = "", config: Iterable[str] = (), class_names: Path | None = None) -> Source:
    """What the options of `_MODEL` say.

    Raises:
        ValueError: a config without a value, or names that cannot be read.
    """
    from ouro.data.names import read_names
    from ouro.types import ModelSource

    names = () if class_names is None else read_names(class_names)
    return ModelSource(model, weights, pairs(list(config), "config"), names)


def pairs(items: list[str], option: str = "option", *, last: bool = False) -> tuple[tuple[str, Any], ...]:
    """["window=5", "features=alpha_p"] -> (("window", 5), ("features", "alpha_p")); lists become tuples.

    Args:
        last: the value stands behind the last "=", as names that are regular expressions may hold some: "(?<=x)y=8".

    Raises:
        ValueError: an item without a name or a value.
    """
    parsed: list[tuple[str, Any]] = []
    for item in items:
        key, equals, text = item.rpartition("=") if last else item.partition("=")
        if not equals or not key:
            raise ValueError(f"{option} {item!r} is not of the form name=value")
        try:
            parsed.append((key, _frozen(json.loads(text))))
        except json.JSONDecodeError:
            parsed.append((key, text))
    return tuple(parsed)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def numbers(text: str, name: str) -> tuple[int, ...]:
    """What "3,4,6,8" says: (3, 4, 6, 8).

    Raises:
        ValueError: it says something else.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"{name} {text!r} cannot be read; write whole numbers with commas, as in 3,4,6,8")
    return tuple(map(int, parts))


def labeled(items: list[str], option: str) -> tuple[tuple[str, str], ...]:
    """LABEL=SET -> (label, set).

    Raises:
        ValueError: an item without a set.
    """
    split = tuple((label, rest) for label, _, rest in (item.partition("=") for item in items))
    if not all(rest for _, rest in split):
        raise ValueError(f"{option} {items} has an entry without a set; write LABEL=SET, as in real=real:128")
    return split
