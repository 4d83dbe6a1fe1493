"""The network around the layers: positions, pooling, padding, blur; and its form for inference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lrlc_jax.errors import InputError
from lrlc_jax.layers import (
    LAYERS,
    LRLC,
    Conv,
    ConvConfig,
    LocallyConnected,
    LocallyConnectedConfig,
    LRLCConfig,
    MixedLRLCConfig,
    SpatialBiasConfig,
    SpecialLayerConfig,
    WideConvConfig,
)
from lrlc_jax.networks import (
    Network,
    NetworkConfig,
    NetworkFactory,
    apply,
    count_parameters,
    for_inference,
    pool,
    split,
)
from tests.layers.examples import random, randomize, slow

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = (8, 9, 2)


def trainable(shape, layer):
    return NetworkFactory(shape, 10, layer).parameters()


def small(layer, **network):
    return NetworkFactory(SMALL, 3, layer, NetworkConfig(**{"channels": 4, **network}))


def evaluated(network, x):
    """Logits in inference, by one compiled program."""
    graphdef, state = nnx.split(network)
    return jax.jit(lambda state, x: nnx.merge(graphdef, state)(x, train=False))(state, x)


def test_spatial_bias_has_lrlc_rank_1_without_its_idle_weights():
    idle = 28 + 28  # one weight a row and a column of layer 2's output, always softmaxed to 1
    shape = (32, 32, 3)
    ranked, biased = LRLCConfig(at=2, rank=1), SpatialBiasConfig(at=2)
    assert trainable(shape, ranked) - trainable(shape, biased) == idle


def test_the_fair_start_of_locally_connected_is_that_of_a_convolution():
    network = Network(SMALL, 10, LocallyConnectedConfig(fan_in="position"), rngs=nnx.Rngs(0))
    limit = (6 / 576) ** 0.5
    assert 0.99 * limit < np.abs(network.layers[2].kernel[...]).max() <= limit * (1 + 1e-6)


def test_a_wide_convolution_knows_its_lrlc_network():
    factory = NetworkFactory((32, 32, 3), 10, WideConvConfig(at="all", rank=4))
    # The footnote of section 4: widening every layer matches nothing.
    assert factory.parameters() == 492_580
    assert factory.matched().parameters() == 303_698
    assert NetworkFactory((32, 32, 3), 10, LRLCConfig()).matched() is None


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("rank", [2, 7, 30])
def test_one_wide_layer_has_about_the_parameters_of_lrlc(at, rank):
    factory = NetworkFactory((32, 32, 3), 10, WideConvConfig(at=at, rank=rank))
    assert factory.parameters() == pytest.approx(factory.matched().parameters(), rel=0.05)


SPECIAL = [schema for schema in LAYERS.values() if issubclass(schema, SpecialLayerConfig)]
PLACES = [
    LRLCConfig(at=2),
    *(slow(schema()) for schema in LAYERS.values() if schema not in SPECIAL),
    *(slow(schema(at=at)) for schema in SPECIAL for at in (2, "all") if schema is not LRLCConfig),
    slow(LRLCConfig(at="all")),
]


@pytest.mark.parametrize("layer", PLACES, ids=repr)
def test_every_layer_trains_at_one_and_at_all_positions(layer):
    network = small(layer)(nnx.Rngs(0))
    graphdef, params, stats = split(network)
    images, labels = random(0, 6, *SMALL), jnp.arange(6) % 3

    @jax.jit
    def loss_and_grads(params, stats):
        def loss(params):
            logits, after = apply(graphdef, params, stats, images, train=True)
            return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(6), labels]), after

        return jax.value_and_grad(loss, has_aux=True)(params)

    losses = []
    for _ in range(8):
        (value, stats), grads = loss_and_grads(params, stats)
        params = jax.tree.map(lambda p, g: p - 0.2 * g, params, grads)
        losses.append(float(value))
    assert losses[-1] < losses[0]
    for path, grad in nnx.to_flat_state(grads):
        assert np.any(np.asarray(grad[...])), f"{path} takes no part"


@pytest.mark.parametrize("padding", ["valid", "same", "reflect", "circular"])
@pytest.mark.parametrize(
    "name", ["lrlc", "lrlc_mixed", *map(slow, ["conv", "lrlc_input_dependent"])]
)
def test_padding_keeps_the_size_or_does_not(padding, name):
    layer = LAYERS[name]()
    network = nnx.eval_shape(lambda: small(layer, padding=padding)(nnx.Rngs(0)))
    kept = padding != "valid"
    sizes = [each.positions() for each in network.layers]
    last = (8, 9) if kept else (4, 5) if name == "lrlc_mixed" else (2, 3)
    assert sizes[-1] == last
    logits = nnx.eval_shape(lambda net: net(jnp.ones((1, *SMALL)), train=False), network)
    assert logits.shape == (1, 3)


def test_a_circular_network_does_not_see_a_circular_shift():
    network = small(ConvConfig(), padding="circular")(nnx.Rngs(0))
    x = random(0, 2, *SMALL)
    shifted = jnp.roll(x, (3, 2), axis=(1, 2))
    np.testing.assert_allclose(network(x, train=False), network(shifted, train=False), atol=1e-5)
    zeros = small(ConvConfig(), padding="same")(nnx.Rngs(0))
    difference = jnp.abs(zeros(x, train=False) - zeros(shifted, train=False))
    assert difference.max() > 1e-3  # the border is seen


def test_pooling_is_over_all_positions():
    x = random(0, 2, 3, 4, 5)
    np.testing.assert_allclose(pool(x, "average"), np.mean(x, axis=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(pool(x, "max"), np.max(x, axis=(1, 2)))
    np.testing.assert_allclose(pool(x, "flatten"), np.asarray(x).reshape(2, -1))
    for pooling, numbers in (("average", 4), ("max", 4), ("flatten", 4 * 2 * 3)):
        network = small(ConvConfig(), pooling=pooling)(nnx.Rngs(0))
        assert network.classifier.in_features == numbers
        assert network(jnp.ones((1, *SMALL)), train=False).shape == (1, 3)


def test_blur_takes_the_same_steps_as_strides():
    plain = small(LRLCConfig(at=2), strides=[1, 2, 1], padding="same")(nnx.Rngs(0))
    blurred = small(LRLCConfig(at=2), strides=[1, 2, 1], padding="same", blur=True)(nnx.Rngs(0))
    assert plain.layers[1].positions() == (4, 5)
    assert blurred.layers[1].positions() == (8, 9)
    assert plain.layers[2].positions() == blurred.layers[2].positions() == (4, 5)


def test_images_too_small_to_be_blurred_are_refused_before_training():
    with pytest.raises(ValueError, match=r"2x3.*5x5"):
        small(ConvConfig(), strides=[1, 1, 3], blur=True)(nnx.Rngs(0))


def test_blur_makes_a_strided_network_less_sensitive_to_shifts():
    x = random(0, 64, 16, 16, 2)

    def change(blur):
        network = NetworkFactory(
            (16, 16, 2),
            3,
            ConvConfig(),
            NetworkConfig(8, 3, [1, 2, 2], "circular", "average", blur, False),
        )(nnx.Rngs(0))
        both = evaluated(network, jnp.concatenate([x, jnp.roll(x, 1, axis=2)]))
        original, shifted = jnp.split(both, 2)
        return float(jnp.mean(jnp.square(shifted - original)) / jnp.var(original))

    assert change(True) < 0.5 * change(False)


@pytest.mark.parametrize("batch_norm", [slow(False), True])
@pytest.mark.parametrize(
    "layer",
    [
        LRLCConfig(at="all", rank=3),
        slow(LRLCConfig(at=[1, 3], rank=2, sharing="row", normalization="norm")),
        slow(MixedLRLCConfig(at=2, rank=2, kernel_sizes=[3, [2, 1]], dilations=[1, 2])),
        SpatialBiasConfig(),
        slow(LocallyConnectedConfig(at=2)),
        slow(ConvConfig()),
    ],
    ids=repr,
)
def test_the_network_for_inference_has_the_same_outputs(layer, batch_norm):
    network = small(layer)(nnx.Rngs(0))
    randomize(network)
    for norm in network.norms:
        norm.mean[...] = random(7, 4)
        norm.var[...] = jnp.exp(random(8, 4))
    x = random(0, 5, *SMALL)
    expected = evaluated(network, x)
    before = jax.tree.map(jnp.copy, nnx.state(network))
    converted = for_inference(network, batch_norm=batch_norm)
    actual = evaluated(converted, x)
    assert np.abs(actual - expected).max() < 1e-5 * max(1, np.abs(expected).max())
    assert len(converted.norms) == (0 if batch_norm else 3)
    assert not any(isinstance(each, LRLC) for each in converted.layers)
    for position in layer.positions:
        assert isinstance(converted.layers[position - 1], LocallyConnected)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, before, nnx.state(network)))


def test_the_network_for_inference_costs_the_multiply_adds_of_a_convolution():
    def flops(network):
        graphdef, state = nnx.split(network)
        program = jax.jit(lambda s, x: nnx.merge(graphdef, s)(x, train=False))
        return program.lower(state, jnp.ones((4, *SMALL))).compile().cost_analysis()["flops"]

    conv = for_inference(small(ConvConfig())(nnx.Rngs(0)), batch_norm=True)
    ranked = small(LRLCConfig(at="all", rank=3))(nnx.Rngs(0))
    local = for_inference(ranked, batch_norm=True)
    assert all(isinstance(each, Conv) for each in conv.layers)
    assert flops(local) == flops(conv) < flops(ranked)


def test_filters_that_depend_on_the_example_cannot_be_converted():
    network = small(LAYERS["lrlc_input_dependent"]())(nnx.Rngs(0))
    with pytest.raises(ValueError, match="input_dependent is True"):
        for_inference(network)


def test_the_way_of_the_products_makes_another_factory_and_network():
    default, other = (NetworkFactory(SMALL, 3, LRLCConfig(), way=way) for way in (None, "patches"))
    assert default != other
    graphs = [nnx.graphdef(nnx.eval_shape(lambda f=f: f(nnx.Rngs(0)))) for f in (default, other)]
    assert graphs[0] != graphs[1]


def test_each_layer_has_its_kernel_size():
    network = nnx.eval_shape(lambda: small(ConvConfig(), kernel_size=[3, 1, 2])(nnx.Rngs(0)))
    assert [layer.kernel_size for layer in network.layers] == [(3, 3), (1, 1), (2, 2)]
    for wrong in ([3, 3], [3, 3, 0], 0):
        with pytest.raises(InputError, match=r"network\.kernel_size"):
            NetworkConfig(kernel_size=wrong).check()


def test_parameters_are_counted():
    assert count_parameters({"a": jnp.ones((2, 3)), "b": jnp.ones(4)}) == 10


def products_of(factory):
    """The type and the precision of every matrix product of a training step."""

    graphdef, params, stats = split(nnx.eval_shape(lambda: factory(nnx.Rngs(0))))

    def loss(params, stats, images):
        logits, _ = apply(graphdef, params, stats, images, train=True)
        return logits.sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss))(params, stats, jnp.ones((2, *SMALL)))

    def equations(jaxpr):
        for equation in jaxpr.eqns:
            yield equation
            for value in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
            ):
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)

    return {
        (equation.invars[0].aval.dtype.name, equation.params["precision"])
        for equation in equations(jaxpr.jaxpr)
        if equation.primitive.name == "dot_general"
    }


@pytest.mark.parametrize(
    "name", [name if name == "lrlc" else slow(name) for name in LAYERS if name != "conv"]
)
def test_precision_reaches_every_product_of_a_step(name):
    """Also those with which filters are folded, and those of the gradients."""
    layer = LAYERS[name](**({} if name == "coord_conv" else {"at": "all"}))
    high, highest = (jax.lax.Precision.HIGH,) * 2, (jax.lax.Precision.HIGHEST,) * 2
    network = {"padding": "same"} if name == "lrlc_mixed" else {}
    assert products_of(small(layer, **network)) == {("float32", highest)}
    # Maps are resized in full precision, whatever that of the products.
    resized = {("float32", highest)} if name == "lrlc_input_dependent" else set()
    tf32 = products_of(small(layer, **network, precision="tf32"))
    assert tf32 == {("float32", high)} | resized
    kinds = products_of(small(layer, **network, precision="bfloat16"))
    # The classifier stays in float32.
    assert {dtype for dtype, _ in kinds} == {"bfloat16", "float32"}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_bfloat16_is_near_float32_and_not_it(name):
    network = {"padding": "same"} if name == "lrlc_mixed" else {}
    exact = small(LAYERS[name](), **network)(nnx.Rngs(0))
    rounded = small(LAYERS[name](), **network, precision="bfloat16")(nnx.Rngs(0))
    images = random(0, 5, *SMALL)
    logits, near = (net(images, train=True) for net in (exact, rounded))
    assert near.dtype == jnp.float32
    error = np.abs(logits - near).max() / np.abs(logits).max()
    assert 1e-5 < error < 0.1
