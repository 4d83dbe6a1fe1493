"""Errors that a command reports in one sentence, without a traceback."""

import difflib
from collections.abc import Iterable
from typing import Any

LARGEST = 2**31 - 1  # whole number of a setting, unless it has another bound
LONG_VALUE = 40  # characters of a value in a sentence
LONG_LIST = 12  # names; a longer list is shown only if no name is similar


class InputError(Exception):
    """Bad input: a setting, a data file, a record. Exit status 2."""

    status = 2


class RunError(Exception):
    """The work failed, with valid input. Exit status 1."""

    status = 1


def unknown_name(what: str, name: str, valid: Iterable[str]) -> InputError:
    """:class:`InputError` with the nearest valid name, or with all of up to 12 valid names.

    >>> print(unknown_name("layer", "lrcl", ["conv", "lrlc"]))
    There is no layer 'lrcl'; did you mean 'lrlc'? Valid: conv, lrlc.
    """
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    valid_names = "" if close and len(names) > LONG_LIST else f" Valid: {', '.join(names)}."
    return InputError(f"There is no {what} {name!r}{hint}{valid_names}")


def one_of(what: str, value: Any, valid: Iterable[str]) -> None:
    """Raise an :class:`InputError` unless ``value`` is in ``valid``."""
    names = tuple(valid)
    if value not in names:
        raise unknown_name(what, str(value), names)


def yaml_problem(error: Exception) -> str:
    """Line and problem of a YAML file that cannot be parsed."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split()).rstrip(".")
    return f"line {mark.line + 1}: {problem}" if mark else problem


def in_range(name: str, value: Any, low: int, high: int = LARGEST) -> None:
    """Raise an :class:`InputError` unless ``value`` is a whole number from ``low`` to ``high``."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low:
        raise InputError(
            f"{name} is {shortened(repr(value))}; it must be a whole number of at least {low}."
        )
    if value > high:
        raise InputError(f"{name} is {shortened(repr(value))}; it must be at most {high:,}.")


def shortened(text: str, longest: int = LONG_VALUE) -> str:
    """The beginning of a text, for a sentence."""
    return text if len(text) <= longest else f"{text[:longest]}..."


def not_negative(name: str, value: Any) -> None:
    """Raise an :class:`InputError` unless ``value`` is a finite number of at least 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < float("inf"):
        raise InputError(f"{name} is {value!r}; it must be a number of at least 0.")
