"""Trains on the devices of this process and on one of them, and prints what came of it as JSON.

python -m tests.training.on_devices CASE...
"""

import contextlib
import dataclasses
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
from lrlc_jax.training import groups
from lrlc_jax.training import train as loop
from lrlc_jax.training.checkpoint import Checkpoints
from lrlc_jax.training.compilation import CompileClock
from lrlc_jax.training.devices import lay_out, own_part
from lrlc_jax.training.step import init, to_input, update
from lrlc_jax.training.train import DeviceData, ProtocolConfig, train

PROTOCOL = {"epochs": 2, "batch_size": 40}
CASES = {
    "9 seeds": {"seeds": 9},
    "3 seeds in fresh places": {"seeds": 3, "fresh": True},
    "5 seeds, shared batches": {"seeds": 5, "seeds_at_once": 2, "data_parallel": 2},
    "1 seed, shared batches in fresh places": {"seeds": 1, "data_parallel": 8, "fresh": True},
}


@functools.cache
def data_and_factory(fresh):
    """120 images of digits, in noise that is new in each epoch if ``fresh``."""
    places = {"translate": 10, "translate_train": "fresh"} if fresh else {}
    dataset = load(DatasetConfig(train_size=120, **places))
    factory = NetworkFactory(
        dataset.image_shape,
        dataset.num_classes,
        LRLCConfig(at=3, rank=2),
        NetworkConfig(channels=16),
    )
    return DeviceData.put(dataset), factory


@contextlib.contextmanager
def one_device():
    """Let training see one device."""
    loop.lay_out = lambda seeds, _: lay_out(seeds, 1, jax.local_devices()[:1])
    yield
    loop.lay_out = lay_out


def histories(**case):
    """The figures of a run on all devices, and on one."""
    # Both in one process: JAX gives one that has more CPU devices more threads, which sum in
    # another order.
    several = history(**case)
    with one_device():
        return several, history(**case)


def moved():
    """The figures of 9 seeds that are stopped after an epoch on 5 devices and go on on one."""
    trained = []

    def stop(*_):
        raise Stopped

    with tempfile.TemporaryDirectory() as folder:
        kept_in = pathlib.Path(folder)
        with contextlib.suppress(Stopped):
            history(**CASES["9 seeds"], on_epoch=stop, checkpoints=Checkpoints(kept_in))
        with one_device():
            found = history(
                **CASES["9 seeds"],
                on_epoch=lambda epoch, _: trained.append(epoch),
                checkpoints=Checkpoints(kept_in),
            )
    return {**found, "trained": trained}


def history(*, seeds, data_parallel=1, fresh=False, **how):
    """The figures of a run, as lists."""
    data, factory = data_and_factory(fresh)
    protocol = ProtocolConfig(**PROTOCOL, seeds=seeds, data_parallel=data_parallel)
    found = train(factory, data, protocol, seeds=range(seeds), **how)
    epochs = [{k: v.tolist() for k, v in dataclasses.asdict(e).items()} for e in found.epochs]
    test = {"test_loss": found.test_loss.tolist(), "test_accuracy": found.test_accuracy.tolist()}
    return {"devices": found.devices, "figures": [*epochs, test]}


def first_step(data_parallel):
    """One step of one seed: the gradient (in Adam's first moment), statistics, loss and hits."""
    data, factory = data_and_factory(False)
    graphdef, _, _ = split(factory(nnx.Rngs(0)))
    layout = lay_out(1, data_parallel)
    axis = layout.batch_axis
    inputs, labels = to_input(data.train.images[:40], data.scaling), data.train.labels[:40]

    def one(state):
        mine = own_part(inputs, axis), own_part(labels, axis)
        return update(graphdef, state, *mine, jnp.float32(0.01), axis)

    states = jax.vmap(functools.partial(init, factory))(jnp.zeros(1, jnp.uint32))
    run = jax.jit(lambda states: layout.run(lambda states: jax.lax.map(one, states), states))
    state, loss, right = layout.get(run(layout.put(jax.device_get(states))))
    trees = {"gradient": state.moments.mu, "statistics": state.stats, "loss": loss, "hits": right}
    return {
        name: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).tolist()
        for name, tree in trees.items()
    }


def layouts():
    """What a layout does with 9 seeds on 5 devices, and what another layout makes of it."""
    _, factory = data_and_factory(False)
    layout = lay_out(9)
    states = loop._init_seeds(factory, layout, layout.put(np.arange(9, dtype=np.uint32)))
    kept = layout.get(states)
    smaller = lay_out(9, 2, jax.devices()[2:6])
    moved = smaller.put(kept)
    again = layout.put(smaller.get(moved))
    everywhere = layout.replicate(np.arange(3))
    pairs = list(zip(jax.tree.leaves(states), jax.tree.leaves(again), strict=True))
    return {
        "devices": [layout.mesh.devices.shape, smaller.mesh.devices.shape],
        "seeds each": [layout.seeds_each, smaller.seeds_each],
        "on the devices": [states.seed.tolist(), moved.seed.tolist()],
        "on the host": [kept.seed.tolist(), smaller.get(moved).seed.tolist()],
        "all as before": all(bool((one == other).all()) for one, other in pairs),
        "on the same devices": all(one.sharding == other.sharding for one, other in pairs),
        "copied again": layout.replicate(everywhere) is not everywhere,
    }


def programs(seeds):
    """Programs that are compiled by a first epoch, and by those that follow."""
    loop.default_seeds_at_once = lambda count: count
    loop.free_memory = lambda devices: len(devices) * 10**12
    asked = []
    loop.memory_of = lambda compiled: asked.append(groups.memory_of(compiled)) or asked[-1]
    data, factory = data_and_factory(False)
    clock = CompileClock()
    counts = []
    train(
        factory,
        data,
        ProtocolConfig(**PROTOCOL | {"epochs": 3}, seeds=seeds),
        seeds=range(seeds),
        on_epoch=lambda *_: counts.append(clock.programs),
    )
    return {"by epoch": counts, "asked": len(asked)}


def main(*names):
    extra = {
        "first steps": lambda: [first_step(p) for p in (1, 4)],
        "layouts": layouts,
        "moved": moved,
        "programs": lambda: programs(10),
    }
    found = {name: extra[name]() if name in extra else histories(**CASES[name]) for name in names}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
