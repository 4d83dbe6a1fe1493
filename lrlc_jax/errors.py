"""What a person did wrong, or what went wrong, in one sentence and without a traceback."""

import difflib
from collections.abc import Iterable
from typing import Any

LONG_LIST = 12


class InputError(Exception):
    """Bad input: a config, a data file, a record. The command exits with status 2."""

    status = 2


class RunError(Exception):
    """The work itself failed, with good input. The command exits with status 1."""

    status = 1


def unknown_name(what: str, name: str, valid: Iterable[str]) -> InputError:
    """An :class:`InputError` that suggests the nearest valid name.

    All valid names are listed, but for a long list of which one is near.

    >>> print(unknown_name("layer", "lrcl", ["conv", "lrlc"]))
    There is no layer 'lrcl'; did you mean 'lrlc'? Valid: conv, lrlc.
    """
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    valid_names = "" if close and len(names) > LONG_LIST else f" Valid: {', '.join(names)}."
    return InputError(f"There is no {what} {name!r}{hint}{valid_names}")


def one_of(what: str, value: Any, valid: Iterable[str]) -> None:
    """Refuse a word that is not among the valid ones.

    Raises:
        InputError: naming the setting, its value and what is allowed.
    """
    names = tuple(valid)
    if value not in names:
        raise unknown_name(what, str(value), names)


def at_least(name: str, value: Any, low: int) -> None:
    """Refuse what is not a whole number, or too low.

    Raises:
        InputError: naming the setting and its value.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise InputError(f"{name} is {value!r}; it must be a whole number of at least {low}.")


def not_negative(name: str, value: Any) -> None:
    """Refuse what is not a number, or less than 0.

    Raises:
        InputError: naming the setting and its value.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < float("inf"):
        raise InputError(f"{name} is {value!r}; it must be a number, and not negative.")
