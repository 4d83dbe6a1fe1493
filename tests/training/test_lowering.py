"""The programs of training, lowered for accelerators that this machine does not have."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from lrlc_jax.layers import LAYERS
from lrlc_jax.layers.ops.target import Target, compiling_for
from lrlc_jax.networks import NetworkConfig, NetworkFactory, split
from lrlc_jax.training.devices import lay_out
from lrlc_jax.training.optimizer import Hyperparameters
from lrlc_jax.training.step import Examples, init
from lrlc_jax.training.train import DeviceData, _epoch, evaluate_seeds
from tests.layers.examples import exhaustive, slow

pytestmark = pytest.mark.usefixtures("optax_types")

TARGETS = {
    "cuda": Target("gpu", "NVIDIA H100 80GB HBM3", 80 * 10**9),
    "tpu": Target("tpu", "TPU v5 lite", 16 * 10**9),
}
IMAGES, CLASSES, BATCH, SEEDS = (12, 12, 3), 5, 4, 3


@pytest.fixture(params=["cuda", "tpu"])
def platform(request):
    """A platform, as that of this process: JAX's caches do not know the target."""
    jax.clear_caches()
    with compiling_for(TARGETS[request.param]):
        yield request.param
    jax.clear_caches()


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def examples(count):
    return Examples(array(count, *IMAGES, dtype=jnp.uint8), array(count, dtype=jnp.int32))


def lowered(program, platform, *arguments, **options):
    return program.trace(*arguments, **options).lower(lowering_platforms=(platform,)).as_text()


def kernels(text):
    """Names of the arrays that the GPU kernels compute."""
    return set(re.findall(r"custom_call @\S*triton.*?name = \"(\w+)_of_product\"", text))


def programs(factory, platform, seeds_at_once):
    """The texts of an epoch with its validation, and of a test."""
    graphdef, _, _ = split(nnx.eval_shape(lambda: factory(nnx.Rngs(0))))
    seeds = array(SEEDS, dtype=jnp.uint32)
    states = jax.eval_shape(jax.vmap(functools.partial(init, factory)), seeds)
    static = graphdef, lay_out(SEEDS, devices=jax.local_devices()[:1]), seeds_at_once
    scaling, number = (array(), array()), array(dtype=jnp.int32)
    data = DeviceData(examples(2 * BATCH), examples(7), examples(7), scaling)
    hyper = Hyperparameters(*[array()] * len(Hyperparameters._fields))
    epoch = lowered(_epoch, platform, *static, BATCH, states, data, hyper, number)
    how = {"examples": data.test, "scaling": scaling, "epoch": number}
    return epoch, lowered(evaluate_seeds, platform, *static, states, **how)


def regular(layer):
    return all(window.dilation is not None for window in layer.windows())


QUICK = ("lrlc",)
KINDS = [name if name in QUICK else slow(name) for name in LAYERS]


@pytest.mark.parametrize("seeds_at_once", [1, exhaustive(SEEDS)])
@pytest.mark.parametrize("name", KINDS)
def test_an_epoch_and_a_test_are_lowered(platform, name, seeds_at_once):
    factory = NetworkFactory(IMAGES, CLASSES, LAYERS[name](), NetworkConfig(channels=4))
    layers = nnx.eval_shape(lambda: factory(nnx.Rngs(0))).layers
    found = [kernels(text) for text in programs(factory, platform, seeds_at_once)]
    # Mixed bases need not lie on a regular grid; the kernels do not apply then.
    own = [layer for layer in layers if layer.kind != "shared" and regular(layer)]
    if platform == "cuda" and own:
        weights = {"weights"} & {"weights" for layer in own if layer.kind == "combined"}
        assert found == [{"images", "banks", "outputs"} | weights, {"outputs"}]
    else:
        assert found == [set(), set()]


@pytest.mark.parametrize("precision", [exhaustive("bfloat16"), slow("bfloat16_products")])
@pytest.mark.parametrize(
    "name", [exhaustive("conv"), exhaustive("lrlc"), slow("lrlc_input_dependent")]
)
def test_an_epoch_and_a_test_are_lowered_in_every_precision(platform, name, precision):
    network = NetworkConfig(channels=4, precision=precision)
    factory = NetworkFactory(IMAGES, CLASSES, LAYERS[name](), network)
    epoch, test = programs(factory, platform, 1)
    expected = {"outputs"}
    by_kernels = name != "conv" or precision == "bfloat16_products"
    if platform == "cuda" and by_kernels:
        assert kernels(test) == expected < kernels(epoch)
    else:
        assert not kernels(epoch) | kernels(test)
