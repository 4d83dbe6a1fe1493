"""What a person did wrong, or what went wrong, in one sentence and without a traceback."""

import difflib
from collections.abc import Iterable

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
