"""Processor cores and memory of this machine."""

import os

from lrlc_jax.errors import InputError


def physical_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require_memory(needed: int, what: str, advice: str, memory: int | None = None) -> None:
    """Raise an :class:`InputError` if ``needed`` bytes are more than ``memory``, or this machine's.

    >>> require_memory(2**40, "This", "train less", memory=2**34)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    lrlc_jax.errors.InputError: This needs at least 1,024.0 GiB of memory, and there are ...
    """
    memory = memory or physical_memory()
    if needed > memory:
        raise InputError(
            f"{what} needs at least {needed / 2**30:,.1f} GiB of memory, and there are "
            f"{memory / 2**30:,.1f} GiB; {advice}."
        )


def cores() -> int:
    """Number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
