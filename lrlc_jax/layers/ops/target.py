"""The device that programs are compiled for."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

import jax


@dataclasses.dataclass(frozen=True)
class Target:
    """A device.

    Attributes:
        platform: ``cpu``, ``gpu`` or ``tpu``.
        kind: name of the model, such as ``NVIDIA H100 80GB HBM3``.
        memory: bytes that programs may allocate; None if unknown.
    """

    platform: str
    kind: str
    memory: int | None = None


_chosen: contextvars.ContextVar[Target | None] = contextvars.ContextVar("target", default=None)


def target() -> Target:
    """The device that programs are compiled for: by default the first of this process."""
    if (chosen := _chosen.get()) is not None:
        return chosen
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    return Target(jax.default_backend(), device.device_kind, stats.get("bytes_limit"))


@contextlib.contextmanager
def compiling_for(device: Target) -> Iterator[None]:
    """Trace programs for a device that this process does not have.

    JAX's caches do not know the target: clear them (:func:`jax.clear_caches`) between targets.
    """
    token = _chosen.set(device)
    try:
        yield
    finally:
        _chosen.reset(token)
