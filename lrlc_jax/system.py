"""What the machine offers: a place to keep things, space on it, and processor cores."""

import os
import pathlib

from lrlc_jax.errors import RunError


def cache_folder() -> pathlib.Path:
    """The folder ``lrlc_jax`` in the user's cache folder, for what can be made again."""
    root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(root) / "lrlc_jax"


def require_space(folder: pathlib.Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        RunError: saying what is needed.
    """
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if free < needed:
        raise RunError(
            f"{folder} needs {needed / 2**20:,.0f} MiB for prepared data, and its disk has "
            f"{free / 2**20:,.0f} MiB free; free some, or name another folder by dataset.cache_dir."
        )


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
