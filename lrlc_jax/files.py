"""Bounded reads, atomic writes, readable JSON, folders, locks."""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import pathlib
import re
import stat
import tempfile
from typing import Any

from lrlc_jax.errors import InputError, RunError

TEMPORARY = ".tmp"  # ending of unfinished files
LARGEST_TEXT = 64 * 2**20  # bytes of a JSON or YAML file
DEEPEST = 16  # levels of nested values in a JSON file of this package
LONGEST_NUMBER = 18  # digits
NUMBERS = {int, float, bool, type(None)}  # long lists of these are not searched for text
LOCK_ATTEMPTS = 100  # another process may remove the folder between two calls


def open_regular(path: pathlib.Path, largest: int | None = None) -> io.BufferedReader:
    """Open a file for reading; never waits for the other end of a pipe.

    Raises:
        OSError: also if it is no regular file, or has more than ``largest`` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    if largest is not None and status.st_size > largest:
        os.close(descriptor)
        reason = f"it has {status.st_size:,} bytes, more than {largest:,}"
        raise OSError(errno.EFBIG, reason, str(path))
    return os.fdopen(descriptor, "rb")


def read_bytes(path: pathlib.Path, largest: int = LARGEST_TEXT) -> bytes:
    """The content of a regular file of at most ``largest`` bytes.

    Raises:
        OSError: as :func:`open_regular`.
    """
    with open_regular(path, largest) as file:
        content = file.read(largest + 1)
    if len(content) > largest:  # it grew, or its size is unknown
        raise OSError(errno.EFBIG, f"it has more than {largest:,} bytes", str(path))
    return content


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Write a file atomically: whole or not at all, even if the process is killed.

    Raises:
        RunError: if it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        # A worker on another machine, which does not see our lock, may remove the new file.
        for last in (False, False, True):
            try:
                write_and_rename(path, data)
                return
            except FileNotFoundError:
                if last:
                    raise
    except OSError as error:
        raise RunError(f"{path} could not be written ({error.strerror or error}).") from None


def write_and_rename(path: pathlib.Path, data: bytes) -> None:
    """Write a new file under another name, locked while it has that name."""
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=".", suffix=TEMPORARY, delete=False
    ) as file:
        temporary = pathlib.Path(file.name)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def remove_leftovers(folder: pathlib.Path) -> None:
    """Remove the unfinished files of killed processes, recognisable by their free locks."""
    for path in folder.glob(f".*{TEMPORARY}"):
        with contextlib.suppress(OSError), open_regular(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def as_json(values: dict[str, Any]) -> str:
    """Indented JSON with one line for each list of numbers or words."""

    def joined(found: re.Match[str]) -> str:
        return "[" + re.sub(r"\n\s*", " ", found[1]) + "]"

    text = json.dumps(values, indent=1, allow_nan=False)
    return re.sub(r"\[\n\s*([^][{}]*?)\n\s*\]", joined, text) + "\n"


def read_values(path: pathlib.Path, kind: str, newest: int, hint: str) -> dict[str, Any]:
    """Values of a JSON file of this package.

    Args:
        path: of the file.
        kind: of the file, for error messages.
        newest: latest schema that this version can read.
        hint: advice for an invalid file, for error messages.

    Raises:
        InputError: if the file cannot be read, is not JSON, has text with line breaks or control
            characters, has no schema, or a newer one.
    """
    values: dict[str, Any]
    try:
        content = read_bytes(path)
        values = json.loads(content, parse_int=bounded, parse_float=finite, parse_constant=bounded)
        require_plain(values)
    except OSError as error:
        raise InputError(f"{kind} {path} cannot be read ({error.strerror or error}).") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{kind} {path} is not valid JSON ({error}); {hint}.") from None
    schema = values.get("schema") if isinstance(values, dict) else None
    if type(schema) is not int:
        raise InputError(f"{path} is not a {kind.lower()} of lrlc_jax (it has no schema); {hint}.")
    if schema > newest:
        raise InputError(
            f"{kind} {path} has schema {schema}; this version of lrlc_jax reads up to {newest}: "
            "update lrlc_jax."
        )
    return values


def bounded(number: str) -> int:
    """A whole number from JSON; a ValueError if it is very long, infinite or not a number."""
    if len(number.lstrip("-")) > LONGEST_NUMBER or not number.lstrip("-").isdigit():
        raise ValueError(f"{number[:LONGEST_NUMBER]!r} is no number of this kind of file")
    return int(number)


def finite(number: str) -> float:
    """A number from JSON; a ValueError if it is beyond the range of floats."""
    if math.isinf(value := float(number)):
        raise ValueError(f"{number[:LONGEST_NUMBER]} is too large")
    return value


def require_plain(values: Any, levels: int = DEEPEST) -> None:
    """Raise a ValueError for text that is not printable in one line, and for many levels."""
    if isinstance(values, str):
        if not values.isprintable():
            raise ValueError(f"{values[:40]!a} has line breaks or control characters")
    elif isinstance(values, dict | list):
        if not levels:
            raise ValueError(f"more than {DEEPEST} levels of nested values")
        parts = [*values, *values.values()] if isinstance(values, dict) else values
        if not NUMBERS.issuperset(map(type, parts)):
            for part in parts:
                require_plain(part, levels - 1)


def expanded(setting: str, folder: str) -> pathlib.Path:
    """A path with the home folder for ``~``; an InputError if there is no such user."""
    try:
        return pathlib.Path(folder).expanduser()
    except RuntimeError:
        raise InputError(
            f"{setting} is {folder!r}, and there is no such home folder; write the whole path."
        ) from None


def cache_folder() -> pathlib.Path:
    """``lrlc_jax`` in the user's cache folder.

    Raises:
        InputError: if the user has no home folder.
    """
    if not (root := os.environ.get("XDG_CACHE_HOME")):
        try:
            root = str(pathlib.Path.home() / ".cache")
        except RuntimeError:
            raise InputError(
                "There is no home folder for the cache; set XDG_CACHE_HOME to another folder."
            ) from None
    return pathlib.Path(root) / "lrlc_jax"


def require_space(folder: pathlib.Path, needed: int) -> None:
    """Raise :class:`RunError` unless the disk of ``folder`` has ``needed`` bytes free."""
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if free < needed:
        raise RunError(
            f"{folder} needs {needed / 2**20:,.0f} MiB for prepared data, and its disk has "
            f"{free / 2**20:,.0f} MiB free; free some, or choose another dataset.cache_dir."
        )


def sha256_of(path: pathlib.Path, largest: int | None = None) -> str:
    """SHA-256 of a file of at most ``largest`` bytes, in hexadecimal digits."""
    with open_regular(path, largest) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def locked(path: pathlib.Path) -> int | None:
    """Lock a file; create it and its folder if necessary.

    The kernel releases the lock when the process ends, even if it is killed. Whether other machines
    see the lock depends on the network file system.

    Returns:
        File descriptor; closing it unlocks the file. None if another process holds the lock.

    Raises:
        OSError: if the file cannot be created or locked.
    """
    for attempt in range(LOCK_ATTEMPTS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except (FileNotFoundError, FileExistsError):
            if attempt == LOCK_ATTEMPTS - 1:
                raise
            continue  # the last holder has just removed the folder
        keep = False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            keep = os.path.samestat(os.fstat(lock), path.stat())
            if keep:
                return lock
        except FileNotFoundError:
            pass  # the last holder has just removed the file
        except BlockingIOError:
            return None
        finally:
            if not keep:
                os.close(lock)
    return None
