"""Trains on 8 devices of one process, and on one of them; prints the results as JSON.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.training.on_devices [CASE ...]
"""

import contextlib
import functools
import json
import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lrlc_jax.data import load
from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.layers import LRLCConfig
from lrlc_jax.networks import NetworkConfig, NetworkFactory, split
from lrlc_jax.signals import Stopped
from lrlc_jax.training import devices
from lrlc_jax.training import train as loop
from lrlc_jax.training.checkpoint import Checkpoints
from lrlc_jax.training.devices import CompileClock, lay_out, own_part
from lrlc_jax.training.optimizer import Hyperparameters, make_optimizer
from lrlc_jax.training.step import init, to_input, update
from lrlc_jax.training.train import DeviceData, ProtocolConfig, train

CASES = {
    "9 seeds": {"seeds": 9},
    "3 seeds in fresh places": {"seeds": 3, "fresh": True},
    "5 seeds, shared batches": {"seeds": 5, "seeds_at_once": 2, "data_parallel": 2},
    "1 seed, shared batches in fresh places": {"seeds": 1, "data_parallel": 8, "fresh": True},
}
OFTEN = ("9 seeds", "5 seeds, shared batches")


@functools.cache
def data_and_factory(fresh, group=None):
    """120 images of digits; if ``fresh``, at new places in noise in each epoch."""
    places = {"translate": 10, "translate_train": "fresh"} if fresh else {}
    dataset = load(DatasetConfig(train_size=120, **places))
    factory = NetworkFactory(
        dataset.image_shape,
        dataset.num_classes,
        LRLCConfig(at=3, rank=2),
        NetworkConfig(channels=16, batch_norm_group=group),
    )
    return DeviceData.put(dataset), factory


@contextlib.contextmanager
def replaced(**functions):
    """Replace functions that training calls."""
    before = {name: getattr(loop, name) for name in functions}
    vars(loop).update(functions)
    yield
    vars(loop).update(before)


def one_device():
    """Let training see one device."""
    return replaced(lay_out=lambda seeds, _: lay_out(seeds, 1, jax.local_devices()[:1]))


def run(*, seeds, data_parallel=1, fresh=False, epochs=2, **how):
    """The metrics of a run, as lists."""
    data, factory = data_and_factory(fresh)
    protocol = ProtocolConfig(
        epochs=epochs, batch_size=40, seeds=seeds, data_parallel=data_parallel
    )
    found = train(factory, data, protocol, seeds=range(seeds), **how)
    metrics = [
        {name: value.tolist() for name, value in values.items()}
        for values in (*found.epochs, found.test)
    ]
    return {"devices": found.devices, "metrics": metrics}


def histories(name):
    """The metrics of a run on all devices, and on one."""
    # In one process: with more CPU devices JAX has more threads, which sum in another order.
    several = run(**CASES[name])
    with one_device():
        return several, run(**CASES[name])


def moved():
    """The metrics of 9 seeds that are stopped after an epoch on 5 devices and go on on one."""
    trained = []

    def stop(*_):
        raise Stopped

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        with contextlib.suppress(Stopped):
            run(**CASES["9 seeds"], on_epoch=stop, checkpoints=Checkpoints(folder))
        with one_device():
            found = run(
                **CASES["9 seeds"],
                on_epoch=lambda epoch, _: trained.append(epoch),
                checkpoints=Checkpoints(folder),
            )
    return {**found, "trained": trained}


def first_step(data_parallel, group=None):
    """One step of one seed: the gradient (Adam's first moment), moving statistics, metrics."""
    data, factory = data_and_factory(False, group)
    graphdef, _, _ = split(factory(nnx.Rngs(0)))
    layout = lay_out(1, data_parallel)
    axis = layout.batch_axis
    inputs, labels = to_input(data.train.images[:40], data.scaling), data.train.labels[:40]
    optimizer = make_optimizer(Hyperparameters(*map(jnp.float32, (0.01, 0, 3))))

    def one(state):
        mine = own_part(inputs, axis), own_part(labels, axis)
        return update(graphdef, optimizer, state, *mine, axis)

    states = jax.vmap(functools.partial(init, factory))(jnp.zeros(1, jnp.uint32))
    program = jax.jit(lambda states: layout.over_seeds(one, 1, states))
    state, metrics = layout.get(program(layout.put(jax.device_get(states))))
    trees = {"gradient": state.opt_state[0].mu, "statistics": state.stats, **metrics}
    return {
        name: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).tolist()
        for name, tree in trees.items()
    }


def layouts():
    """A layout of 9 seeds on 5 devices, and the way to another layout and back."""
    _, factory = data_and_factory(False)
    layout = lay_out(9)
    states = loop._init_seeds(factory, layout, layout.put(np.arange(9, dtype=np.uint32)))
    saved = layout.get(states)
    smaller = lay_out(9, 2, jax.devices()[2:6])
    moved = smaller.put(saved)
    again = layout.put(smaller.get(moved))
    everywhere = layout.replicate(np.arange(3))
    pairs = list(zip(jax.tree.leaves(states), jax.tree.leaves(again), strict=True))
    return {
        "devices": [layout.mesh.devices.shape, smaller.mesh.devices.shape],
        "seeds each": [layout.seeds_each, smaller.seeds_each],
        "on the devices": [states.seed.tolist(), moved.seed.tolist()],
        "on the host": [saved.seed.tolist(), smaller.get(moved).seed.tolist()],
        "all as before": all(bool((one == other).all()) for one, other in pairs),
        "on the same devices": all(one.sharding == other.sharding for one, other in pairs),
        "copied again": layout.replicate(everywhere) is not everywhere,
    }


def programs():
    """Programs compiled until the end of each epoch, and how often one's memory was asked for."""
    counts, asked = [], []

    def memory_of(compiled):
        asked.append(devices.memory_of(compiled))
        return asked[-1]

    clock = CompileClock()
    with replaced(
        default_seeds_at_once=lambda count, *_: count,
        free_memory=lambda devices: len(list(devices)) * 10**12,
        memory_of=memory_of,
    ):
        run(seeds=10, epochs=3, on_epoch=lambda *_: counts.append(clock.programs))
    return {"by epoch": counts, "asked": len(asked)}


def main():
    if names := sys.argv[1:]:
        print(json.dumps({name: histories(name) for name in names}))
        return
    found = {name: histories(name) for name in OFTEN}
    found |= {"moved": moved(), "layouts": layouts(), "programs": programs()}
    for name, group in ("first steps", None), ("first steps in groups", 5):
        found[name] = [first_step(parts, group) for parts in (1, 4)]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
