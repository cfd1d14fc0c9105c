"""What a method can be set to, read from its class: names, defaults, kinds, choices, bounds, and a word on each.

A class says it where its users look anyway: in the signature (or in its fields), by `Literal` for choices and `Least`
for a bound, and in its docstring. Forms and checks follow from there.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from math import isfinite
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True, slots=True)
class Least:
    """In `Annotated[int, Least(1)]`: the least value."""

    value: float


@dataclass(frozen=True, slots=True)
class Most:
    """In `Annotated[int, Most(8)]`: the greatest value."""

    value: float


@dataclass(frozen=True, slots=True)
class Setting:
    """One option: its default, kind (int, float, bool or str), choices (none: any), least value, and what it is for."""

    name: str
    default: Any
    kind: type
    choices: tuple[Any, ...] = ()
    least: float | None = None
    help: str = ""
    optional: bool = False


def settings(method: type) -> tuple[Setting, ...]:
    """The options of a class: a dataclass's fields, or keyword-only parameters, its own before those of **common.

    The seed is not one of them, it is a run's.
    """
    if is_dataclass(method):
        hints = get_type_hints(method, include_extras=True)
        known = {one.name: (one.default, hints[one.name]) for one in fields(method)}
    else:
        known = dict(_parameters(method))
    words = _words(method, list(known))
    return tuple(_setting(name, default, hint, words.get(name, "")) for name, (default, hint) in known.items())


def _parameters(method: type) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """(name, (default, type)) of every keyword-only parameter that a call may give."""
    seen: set[str] = set()
    for owner in method.__mro__[:-1]:
        if "__init__" not in vars(owner):
            continue
        function = vars(owner)["__init__"]
        hints, parameters = (
            get_type_hints(function, include_extras=True),
            inspect.signature(function).parameters.values(),
        )
        for one in parameters:
            if one.kind is one.KEYWORD_ONLY and one.name not in seen | {"seed"} and one.default is not one.empty:
                yield one.name, (one.default, hints.get(one.name, Any))
            seen |= {one.name}
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            # nothing is passed on to the classes above
            return


def check_settings(method: Any) -> None:
    """Refuses an instance of a dataclass whose fields are not what its settings allow.

    Raises:
        ValueError: see `check_options`.
    """
    known = settings(type(method))
    check_options("method", type(method).__name__, type(method), {one.name: getattr(method, one.name) for one in known})


def check_options(kind: str, name: str, method: type, options: Mapping[str, Any]) -> None:
    """Refuses options that a class does not have, or values of another kind.

    Raises:
        ValueError: what was given, what is allowed.
    """
    known = {setting.name: setting for setting in settings(method)}
    for option, value in options.items():
        if option not in known:
            raise ValueError(f"{kind} {name!r} has no option {option!r}; known: {', '.join(known) or 'none'}")
        setting = known[option]
        if value is None and setting.optional:
            continue
        if setting.choices and value not in setting.choices:
            raise ValueError(f"{option} is {value!r}; known: {', '.join(map(str, setting.choices))}")
        # numpy's numbers are numbers too
        fits: Any = {int: Integral, float: Real, bool: bool, str: str}[setting.kind]
        # True is an int to Python, and to nobody else
        if not isinstance(value, fits) or (isinstance(value, bool) and setting.kind is not bool):
            raise ValueError(f"{option} is {value!r}, expected {_KINDS[setting.kind]}")
        if isinstance(value, Integral) and not abs(int(value)) < 2**31:
            raise ValueError(f"{option} is {brief(value)}, expected a number below 2^31")
        if setting.kind is float and not _fits(value, float):
            raise ValueError(f"{option} is {brief(value)}, expected a finite number")
        if setting.least is not None and not float(value) >= setting.least:
            raise ValueError(f"{option} is {value}, expected {setting.least:g} or more")


def check_fields(record: type, values: Mapping[str, Any], where: str = "", *, complete: bool = False) -> None:
    """Refuses values for a dataclass that are not what its annotations say: types, bounds and finite numbers.

    A list stands for a tuple, as it does in JSON. A whole number without a bound is at least 0 and below 2^63.

    Args:
        where: what goes before a field's name in the message, as "plan.".
        complete: fields with a default have to be there, too.

    Raises:
        ValueError: what was given, what is allowed; a field that does not exist, or one that is missing.
    """
    known = {one.name: one for one in fields(record)}
    hints = get_type_hints(record, include_extras=True)
    for name, one in known.items():
        if name not in values and (complete or (one.default is MISSING and one.default_factory is MISSING)):
            raise ValueError(f"{where}{name} is missing, expected {_expected(hints[name])}")
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{where}{name} is unknown, expected one of {', '.join(known)}")
        if not _fits(value, hints[name]):
            raise ValueError(f"{where}{name} is {brief(value)}, expected {_expected(hints[name])}")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuses what is no whole number from `least` on.

    Raises:
        ValueError: as said.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"{name} is {brief(value)}, expected {'' if whole else 'a whole number, '}{least} or more")


def check_counts(record: object, *names: str) -> None:
    """Refuses a record in which one of these fields is no whole number from 1 on; None stands for all there is.

    Raises:
        ValueError: as said.
    """
    for name in names:
        if (value := getattr(record, name)) is not None:
            check_count(name, value)


def brief(value: Any) -> str:
    """A value as a message shows it: in one line, and its beginning only where it is long."""
    try:
        text = repr(value)
    # digits beyond what Python prints, or lists in lists without end
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} beyond all bounds"
    return text if len(text) <= 60 else f"{text[:60]} ..."


def first_line(error: object) -> str:
    """The first line of what an exception says, which of another library may be many; what it is where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is what an annotation says."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        of, *marks = parts
        return _fits(value, of) and all(_inside(value, mark) for mark in marks)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return False
        if parts[-1] is Ellipsis:
            return all(_fits(item, parts[0]) for item in value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if hint is Any:
        return True
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    if hint is int:
        return isinstance(value, Integral) and 0 <= int(value) < 2**63
    if hint is float:
        try:
            return isinstance(value, Real) and isfinite(float(value))
        # a whole number may be too large for a float
        except OverflowError:
            return False
    return isinstance(value, origin or hint)


def _inside(value: Any, mark: Any) -> bool:
    values = value if isinstance(value, (list, tuple)) else [value]
    if isinstance(mark, Least):
        return all(one is None or float(one) >= mark.value for one in values)
    return not isinstance(mark, Most) or all(one is None or float(one) <= mark.value for one in values)


def _expected(hint: Any) -> str:
    """What an annotation says, in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        of, *marks = parts
        least = [f"{mark.value:g} or more" for mark in marks if isinstance(mark, Least)]
        most = [f"at most {mark.value:g}" for mark in marks if isinstance(mark, Most)]
        return ", ".join([_expected(of), *least, *most])
    if origin in (Union, UnionType):
        return " or ".join(_expected(part) for part in parts)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is tuple:
        if parts[-1] is Ellipsis:
            return f"a list, each {_expected(parts[0])}"
        return f"a list of {len(parts)}, each {_expected(parts[0])}"
    if hint is NoneType:
        return "nothing"
    if origin is not None and issubclass(origin, Mapping):
        return "an object of names and values"
    return _KINDS.get(hint, f"a {getattr(hint, '__name__', hint)}")


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


def _setting(name: str, default: Any, hint: Any, words: str) -> Setting:
    least: float | None = None
    choices: tuple[Any, ...] = ()
    optional = False
    # Annotated[X, ...] | None and Annotated[X | None, ...] are the same
    while get_origin(hint) in (Annotated, Union, UnionType):
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
            least = next((mark.value for mark in marks if isinstance(mark, Least)), least)
        else:
            parts = get_args(hint)
            optional = NoneType in parts
            hint = next(part for part in parts if part is not NoneType)
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        hint = type(choices[0])
    kind = hint if hint in _KINDS else type(default)
    return Setting(name, default, kind, choices, least, words, optional)


def _words(method: type, names: list[str]) -> dict[str, str]:
    """Option -> what the docstrings of the class and of those above say behind "option:" or "option, another:"."""
    if not names:
        return {}
    one = "|".join(map(re.escape, names))
    entry = re.compile(rf"(?:^|(?<=[\s.]))((?:(?:{one}), )*(?:{one})): ")
    words: dict[str, str] = {}
    for owner in reversed(method.__mro__[:-1]):
        for paragraph in inspect.cleandoc(owner.__doc__ or "").split("\n\n"):
            parts = entry.split(" ".join(paragraph.split()))
            for named, said in zip(parts[1::2], parts[2::2], strict=True):
                words |= dict.fromkeys(named.split(", "), said.strip())
    return words
