"""The effective receptive field: which pixels a unit depends on, and how much."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from lrlc_jax.analysis.invariance import BATCH, Floats, Map, Pair, as_map, batches
from lrlc_jax.errors import InputError, in_range

SHARE = 0.9  # of the energy, within the radius


@dataclasses.dataclass(frozen=True)
class EffectiveReceptiveField:
    """Result of :func:`effective_receptive_field`; lengths are in pixels.

    Attributes:
        map: share of the energy at each pixel ``(rows, cols)``; the sum is 1.
        position: the unit's row and column in the map of features.
        centre: mean row and column of the energy.
        deviation: its standard deviation along rows and columns.
        radius: of the smallest disc around the centre with 90 % of the energy.
    """

    map: Floats
    position: Pair
    centre: tuple[float, float]
    deviation: tuple[float, float]
    radius: float

    @property
    def extent(self) -> Pair:
        """Rows and columns from the first to the last pixel with any energy."""
        rows, cols = (np.flatnonzero(self.map.sum(axis=axis)) for axis in (1, 0))
        return int(np.ptp(rows)) + 1, int(np.ptp(cols)) + 1


def effective_receptive_field(
    function: Map,
    images: jax.Array,
    *,
    position: Pair | None = None,
    seed: int = 0,
    batch: int = BATCH,
) -> EffectiveReceptiveField:
    """The effective receptive field of the units at a position, by the energy of their gradient.

    The energy of pixel q is ``E_x sum_{c, c'} (∂f_c(x)[p] / ∂x_{c'}[q])²`` over the features c at
    position p and the channels c' of the image. The sum over features is estimated without bias by
    one gradient of ``sum_c s_c f_c(x)[p]`` with random signs s for each image; with one feature it
    is exact.

    Source: Luo, Li, Urtasun and Zemel (2016), "Understanding the effective receptive field in deep
    convolutional neural networks". A chain of L convolutions with independent random k x k filters
    has a deviation of ``sqrt(L (k² - 1) / 12)`` along each axis.

    Args:
        function: images to maps ``(n, rows, cols, features)``.
        images: ``(n, rows, cols, channels)``.
        position: row and column in the map; by default the middle.
        seed: of the signs.
        batch: images at a time.

    Raises:
        InputError: for outputs without positions, a position outside of them, or no gradient at
            all.
    """
    function = as_map(function)
    first = jax.eval_shape(function, jnp.asarray(images[:1]))
    if first.ndim != 4:
        raise InputError(
            f"The function has outputs of shape {first.shape}; a receptive field needs "
            "(n, rows, cols, features)."
        )
    rows, cols = first.shape[1:3]
    row, col = position or (rows // 2, cols // 2)
    in_range("row of the position", row, 0, rows - 1)
    in_range("column of the position", col, 0, cols - 1)
    energy = np.zeros(images.shape[1:3])
    for number, part in enumerate(batches(images, batch)):
        key = jax.random.fold_in(jax.random.key(seed), number)
        energy += np.asarray(_energy(function, part, key, (row, col)), np.float64)
    if not energy.sum() > 0:
        raise InputError(
            "The features at the position do not depend on the images; choose another position or "
            "other images."
        )
    return of_energy(energy / energy.sum(), (row, col))


def of_energy(energy: Floats, position: Pair) -> EffectiveReceptiveField:
    """The numbers of an energy map ``(rows, cols)`` whose sum is 1."""
    places = [np.arange(length) for length in energy.shape]
    margins = energy.sum(axis=1), energy.sum(axis=0)
    centre = [float(p @ m) for p, m in zip(places, margins, strict=True)]
    spread = [
        float(np.sqrt((p - c) ** 2 @ m)) for p, c, m in zip(places, centre, margins, strict=True)
    ]
    distance = np.hypot(places[0][:, None] - centre[0], places[1] - centre[1]).ravel()
    order = np.argsort(distance)
    within = np.cumsum(energy.ravel()[order])
    last = min(int(np.searchsorted(within, SHARE)), len(order) - 1)
    return EffectiveReceptiveField(
        map=energy,
        position=position,
        centre=(centre[0], centre[1]),
        deviation=(spread[0], spread[1]),
        radius=float(distance[order[last]]),
    )


@functools.partial(jax.jit, static_argnames="position")
def _energy(function: Map, images: jax.Array, key: jax.Array, position: Pair) -> jax.Array:
    """Sum over images and channels of the squared gradient ``(rows, cols)``."""
    row, col = position
    units, pull = jax.vjp(lambda x: function(x)[:, row, col], images)
    (gradient,) = pull(jax.random.rademacher(key, units.shape, units.dtype))
    return jnp.sum(jnp.square(gradient.astype(jnp.float32)), axis=(0, 3))
