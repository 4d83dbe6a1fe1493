"""Devices: seeds per step, free memory, JAX's settings, and the cache of compiled programs."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.errors import JaxRuntimeError
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from lrlc_jax.errors import InputError, RunError
from lrlc_jax.files import cache_folder
from lrlc_jax.layers.ops.target import target

SEEDS, BATCH = "seeds", "batch"  # axes of the grid of devices

# Pixels of a batch that fill an accelerator: with 64 channels, 16 values for each of the 2**18
# threads of an H100.
FILLING_PIXELS = 2**16

SPARE = 0.05  # share of a device's memory to leave free, against fragmentation

Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class Layout:
    """A grid of devices ``(groups, parts)`` for the seeds of a run.

    Each group trains the same number of seeds; its devices share every batch. The last seed pads
    the grid; :meth:`get` drops its copies. On a single device nothing is padded or sharded.
    """

    seeds: int
    mesh: Mesh

    @property
    def seeds_each(self) -> int:
        """Number of seeds on each device, with padding."""
        groups: int = self.mesh.shape[SEEDS]
        return -(-self.seeds // groups)

    @property
    def batch_axis(self) -> str | None:
        """Axis of the devices that share a batch; None if each batch is on one device."""
        return BATCH if self.mesh.shape[BATCH] > 1 else None

    def run(self, program: Callable[..., Any], states: Any, *shared: Any) -> Any:
        """``program(states, *shared)``, computed by each device for its own seeds.

        ``program`` works for any number of seeds, and its results have a leading axis of seeds. It
        closes over no arrays; ``shared`` arguments are equal on all devices.
        """
        if self.mesh.size == 1:
            return program(states, *shared)
        # JAX's check of varying axes does not support our own primitive (layers.ops.multilinear).
        # Without the check, gradients are those of the sum over the devices (step.update).
        on_each = jax.shard_map(
            program,
            mesh=self.mesh,
            in_specs=(Spec(SEEDS), *[Spec()] * len(shared)),
            out_specs=Spec(SEEDS),
            check_vma=False,
        )
        return on_each(states, *shared)

    def over_seeds(
        self, function: Callable[..., Any], seeds_at_once: int, states: Any, *shared: Any
    ) -> Any:
        """``function(state, *shared)`` of each seed, ``seeds_at_once`` in parallel on each device.

        With one seed at once this is a loop without an axis of seeds, which on CPU is faster than
        all at once and takes the memory of one seed.
        """
        at_once = None if seeds_at_once == 1 else seeds_at_once

        def own_seeds(states: Any, *shared: Any) -> Any:
            return jax.lax.map(lambda state: function(state, *shared), states, batch_size=at_once)

        return self.run(own_seeds, states, *shared)

    def replicate(self, tree: Tree) -> Tree:
        """The same arrays on every device; present arrays are not copied again."""
        if self.mesh.size == 1:
            return tree
        replicated: Tree = jax.device_put(tree, NamedSharding(self.mesh, Spec()))
        return replicated

    def put(self, tree: Tree) -> Tree:
        """Copy host arrays with a leading axis of seeds to the devices of their seeds."""
        if self.mesh.size == 1:
            on_one: Tree = jax.device_put(tree)
            return on_one
        rows = self.seeds_each * self.mesh.shape[SEEDS]
        index = np.minimum(np.arange(rows), self.seeds - 1)
        padded = jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)
        spread: Tree = jax.device_put(padded, NamedSharding(self.mesh, Spec(SEEDS)))
        return spread

    def get(self, tree: Tree) -> Tree:
        """Copy arrays to the host, without padding; the inverse of :meth:`put`."""
        own: Tree = jax.tree.map(lambda leaf: leaf[: self.seeds], jax.device_get(tree))
        return own


def lay_out(
    seeds: int, data_parallel: int = 1, devices: Sequence[jax.Device] | None = None
) -> Layout:
    """Spread seeds evenly: minimal number of seeds per device, then minimal number of devices.

    Args:
        seeds: number of seeds of the run.
        data_parallel: number of devices that share each batch.
        devices: devices to choose from; by default all of this process.

    Raises:
        InputError: if there are fewer devices than ``data_parallel``.
    """
    available = list(jax.local_devices() if devices is None else devices)
    if data_parallel > len(available):
        raise InputError(
            f"protocol.data_parallel is {data_parallel}; it must be at most {len(available)}, the "
            "number of devices."
        )
    seeds_each = -(-seeds // (len(available) // data_parallel))
    groups = -(-seeds // seeds_each)
    grid = np.array(available[: groups * data_parallel]).reshape(groups, data_parallel)
    return Layout(seeds, Mesh(grid, (SEEDS, BATCH)))


def own_part(values: jax.Array, batch_axis: str | None) -> jax.Array:
    """This device's part of ``(batch, ...)``; all of it without a ``batch_axis``."""
    if batch_axis is None:
        return values
    parts = values.reshape(jax.lax.axis_size(batch_axis), -1, *values.shape[1:])
    index = jax.lax.axis_index(batch_axis)
    mine: jax.Array = jax.lax.dynamic_index_in_dim(parts, index, keepdims=False)
    return mine


def default_seeds_at_once(count: int, pixels: int, together: bool | None = None) -> int:
    """One seed at a time where a batch fills the device, otherwise all at once.

    Several seeds at once turn convolutions into grouped ones, which move more data. On CPU, one at
    a time is always faster.

    Args:
        count: seeds on a device.
        pixels: of a batch.
        together: whether several seeds at once were measured to be faster, if that is known.
    """
    if together is None:
        together = target().platform != "cpu" and pixels < FILLING_PIXELS
    return count if together else 1


def free_memory(devices: Iterable[jax.Device]) -> int | None:
    """Free bytes on the fullest of the devices; None if the backend does not report them."""
    reports = [stats for device in devices if (stats := device.memory_stats())]
    free = [
        int((1 - SPARE) * stats["bytes_limit"]) - int(stats["bytes_in_use"])
        for stats in reports
        if "bytes_limit" in stats
    ]
    return min(free, default=None)


def memory_of(compiled: jax.stages.Compiled) -> int:
    """The compiler's estimate of a program's memory on a device without arguments, in bytes."""
    analysis: Any = compiled.memory_analysis()
    if analysis is None:
        return 0
    new = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return int(analysis.temp_size_in_bytes + new)


def largest_group(count: int, needed: Callable[[int], int], free: int | None) -> int:
    """The largest number of seeds at once that fits in memory, in groups of nearly equal size.

    Args:
        count: seeds on a device.
        needed: bytes for a number of seeds at once; not called for 1, which is always allowed.
        free: free bytes; None if unknown, then all seeds go at once.

    >>> [largest_group(10, lambda seeds: seeds, free) for free in (10, 9, 4, 3, 1)]
    [10, 5, 4, 3, 1]
    """

    def fits(size: int) -> bool:
        if size == 1 or free is None:
            return True
        try:
            return needed(size) <= free
        except (JaxRuntimeError, MemoryError) as error:  # the compiler may refuse it already
            if lacks_memory(error):
                return False
            raise

    return next(filter(fits, sorted({-(-count // n) for n in range(1, count + 1)}, reverse=True)))


class CompileClock:
    """Counts programs compiled or read from the cache since its creation, and the seconds.

    The seconds include tracing and lowering.
    """

    def __init__(self) -> None:
        self.programs, self.seconds = 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            self.seconds += duration_secs
            self.programs += event.endswith("/backend_compile_duration")


def lacks_memory(error: Exception) -> bool:
    """Whether a failure of the device is a lack of memory."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


@contextlib.contextmanager
def reported_failure(what: str) -> Iterator[None]:
    """Report a failure of the device, such as out of memory, as a RunError.

    ``what`` begins its message, such as ``Convolution could not be trained``.
    """
    try:
        yield
    except (JaxRuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        advice = (
            "; set seeds_at_once=1, a smaller protocol.batch_size (another run), or "
            "protocol.data_parallel, which spreads a batch over devices"
        )
        raise RunError(f"{what}: {reason}{advice if lacks_memory(error) else ''}.") from error


@contextlib.contextmanager
def fixed_settings() -> Iterator[None]:
    """JAX's defaults of the settings that change results, whatever the environment says.

    Random numbers, types and the precision of products must follow from a run's own settings. All
    programs whose values count are traced inside: JAX's caches do not tell apart programs of
    different ``jax_default_prng_impl``.
    """
    update: Callable[[str, object], None] = jax.config.update
    offset = jax.config.values["jax_random_seed_offset"]  # has no context manager
    with (
        jax.default_prng_impl("threefry2x32"),
        jax.threefry_partitionable(True),
        jax.enable_x64(False),
        jax.default_matmul_precision(None),
        jax.numpy_dtype_promotion("standard"),  # optax relies on it
        jax.disable_jit(False),
    ):
        update("jax_random_seed_offset", 0)
        try:
            yield
        finally:
            update("jax_random_seed_offset", offset)


def enable_cache(*, write: bool = True) -> None:
    """Cache compiled programs on disk, in the folder configured for JAX or the user's cache.

    Without ``write`` cached programs are used, and new ones are not added. A user without a home
    folder has no cache.
    """
    update: Callable[[str, object], None] = jax.config.update
    if jax.config.values["jax_compilation_cache_dir"] is None:
        with contextlib.suppress(InputError):
            update("jax_compilation_cache_dir", str(cache_folder() / "jax"))
        update("jax_persistent_cache_min_compile_time_secs", 0.2)
    if not write:
        update("jax_persistent_cache_min_compile_time_secs", float("inf"))
