"""Which device trains which seeds, and which part of their batches."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from lrlc_jax.errors import InputError

# The axes of the grid of devices.
SEEDS, BATCH = "seeds", "batch"

Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a run lies over devices.

    The devices are a grid ``(groups, parts)``. Each group trains as many seeds as the others, and
    the devices of a group share every batch of its seeds. Where the seeds do not go round, the
    last one is trained more than once; what comes of it again is dropped by :meth:`get`.

    Attributes:
        seeds: of the run.
        mesh: the grid. If it is a single device, nothing here does anything.
    """

    seeds: int
    mesh: Mesh

    @property
    def devices(self) -> list[jax.Device]:
        """All devices of the grid."""
        return list(self.mesh.devices.flat)

    @property
    def seeds_each(self) -> int:
        """Seeds that a device trains, repeated ones among them."""
        groups: int = self.mesh.shape[SEEDS]
        return -(-self.seeds // groups)

    @property
    def batch_axis(self) -> str | None:
        """The axis of the devices that share a batch, if any do."""
        return BATCH if self.mesh.shape[BATCH] > 1 else None

    def run(self, program: Callable[..., Any], states: Any, *shared: Any) -> Any:
        """``program(states, *shared)``, where each device computes it for the seeds that it trains.

        Args:
            program: takes states of any number of seeds, and returns arrays with an axis of them
                first. Every array that it uses is among its arguments.
            states: of all seeds, as :meth:`put` lays them out.
            shared: what is the same on all devices.
        """
        if self.mesh.size == 1:
            return program(states, *shared)
        # Without the check of what varies over which axis: it does not know our own primitive
        # (layers/pallas.py). A derivative then is that of the sum over the devices (step.update).
        on_each = jax.shard_map(
            program,
            mesh=self.mesh,
            in_specs=(Spec(SEEDS), *[Spec()] * len(shared)),
            out_specs=Spec(SEEDS),
            check_vma=False,
        )
        return on_each(states, *shared)

    def replicate(self, tree: Tree) -> Tree:
        """The same arrays on every device; one that is there already is not copied."""
        if self.mesh.size == 1:
            return tree
        everywhere: Tree = jax.device_put(tree, NamedSharding(self.mesh, Spec()))
        return everywhere

    def put(self, tree: Tree) -> Tree:
        """Arrays of the host, with an axis of all seeds first, each on the devices of its seeds."""
        if self.mesh.size == 1:
            on_one: Tree = jax.device_put(tree)
            return on_one
        rows = self.seeds_each * self.mesh.shape[SEEDS]
        index = np.minimum(np.arange(rows), self.seeds - 1)
        filled = jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)
        spread: Tree = jax.device_put(filled, NamedSharding(self.mesh, Spec(SEEDS)))
        return spread

    def get(self, tree: Tree) -> Tree:
        """What lies on the devices, as arrays of the host with each seed once; undoes `put`."""
        own: Tree = jax.tree.map(lambda leaf: leaf[: self.seeds], jax.device_get(tree))
        return own


def fewest_groups(seeds: int, most: int) -> int:
    """As few groups as can be, up to ``most``, without more seeds in the largest of them.

    >>> [fewest_groups(seeds, 8) for seeds in (1, 3, 8, 9, 10, 17)]
    [1, 3, 8, 5, 5, 6]
    """
    each = -(-seeds // most)
    return -(-seeds // each)


def lay_out(
    seeds: int, data_parallel: int = 1, devices: Sequence[jax.Device] | None = None
) -> Layout:
    """Spread seeds over devices: over no more of them than it takes to be done as early.

    Args:
        seeds: of the run.
        data_parallel: devices that share the batches of a seed.
        devices: that there are; by default all of this process.

    Raises:
        InputError: if there are fewer devices than share a batch.
    """
    there = list(jax.local_devices() if devices is None else devices)
    if data_parallel > len(there):
        count = f"{len(there)} device{'s' * (len(there) > 1)}"
        raise InputError(
            f"protocol.data_parallel is {data_parallel}, and JAX has {count} here; "
            f"set it to at most {len(there)}."
        )
    groups = fewest_groups(seeds, len(there) // data_parallel)
    grid = np.array(there[: groups * data_parallel]).reshape(groups, data_parallel)
    return Layout(seeds, Mesh(grid, (SEEDS, BATCH)))


def own_part(values: jax.Array, batch_axis: str | None) -> jax.Array:
    """This device's part of values ``(batch, ...)``: all, if no other device shares the batch."""
    if batch_axis is None:
        return values
    parts = values.reshape(jax.lax.axis_size(batch_axis), -1, *values.shape[1:])
    index = jax.lax.axis_index(batch_axis)
    mine: jax.Array = jax.lax.dynamic_index_in_dim(parts, index, keepdims=False)
    return mine
