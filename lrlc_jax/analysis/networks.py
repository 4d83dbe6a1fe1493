"""Measures of a network of ours on images: how much it, and each of its layers, is invariant."""

from typing import Any

import jax
import numpy as np

from lrlc_jax.analysis import invariance as functions
from lrlc_jax.analysis.invariance import Map, OverShifts
from lrlc_jax.analysis.measures import Options, Value, measure
from lrlc_jax.analysis.probe import at_random_places
from lrlc_jax.analysis.probe import position_readout as readout
from lrlc_jax.analysis.receptive import effective_receptive_field
from lrlc_jax.analysis.steps import Part, layer_maps, steps
from lrlc_jax.analysis.translation import Ints, shifts_up_to
from lrlc_jax.networks import Network

VECTORS = ("pooled", "logits")


def maps_of(network: Network) -> dict[str, Part]:
    """The maps of each layer, without the vectors behind them."""
    return {name: part for name, part in layer_maps(network).items() if name not in VECTORS}


def arguments(options: Options) -> dict[str, Any]:
    """Arguments of the functions of :mod:`.invariance`."""
    return {"border": options.border, "batch": options.batch}


@measure
def consistency(
    network: Network, images: jax.Array, labels: jax.Array, options: Options
) -> dict[str, Value]:
    """How often the class stays under shifts (:func:`.invariance.consistency`).

    ``pairs`` is the number of the literature; ``kept`` is the share of images with the class of the
    unshifted image, by shift.
    """
    del labels
    shifts = shifts_up_to(options.largest_shift)
    logits = layer_maps(network)["logits"]
    found = functions.consistency(logits, images, shifts, **arguments(options))
    return {"pairs": found.pairs, "kept": found.kept.grid(1.0)}


@measure
def equivariance(
    network: Network, images: jax.Array, labels: jax.Array, options: Options
) -> dict[str, Value]:
    """Equivariance error of each layer's features (:func:`.invariance.equivariance_error`).

    ``layer1`` is the mean over shifts in the interior, ``layer1_with_borders`` over all positions,
    ``layer1_by_shift`` the map of the latter. Shifts are multiples of the layer's stride.
    """
    del labels
    found: dict[str, Value] = {}
    for name, part in maps_of(network).items():
        reach = part.reach
        shifts = multiples(shifts_up_to(options.largest_shift), reach.stride)
        if not len(shifts):
            continue
        errors = functions.equivariance_error(
            part,
            images,
            shifts,
            stride=reach.stride,
            margin=reach.margin,
            **arguments(options),
        )
        found[name] = errors.interior.mean
        found[f"{name}_with_borders"] = errors.with_borders.mean
        found[f"{name}_by_shift"] = errors.with_borders.grid(0.0)
    return found


def multiples(shifts: Ints, stride: tuple[int, int]) -> Ints:
    """The shifts by whole positions of features with a stride."""
    return shifts[np.all(shifts % np.array(stride) == 0, axis=1)]


@measure
def invariance(
    network: Network, images: jax.Array, labels: jax.Array, options: Options
) -> dict[str, Value]:
    """Invariance error after pooling, and of the logits (:func:`.invariance.invariance_error`).

    ``pooled`` and ``logits`` are means over shifts, ``pooled_by_shift`` ... the maps.
    """
    del labels
    shifts, maps = shifts_up_to(options.largest_shift), layer_maps(network)
    found: dict[str, OverShifts] = {
        name: functions.invariance_error(maps[name], images, shifts, **arguments(options))
        for name in VECTORS
    }
    means: dict[str, Value] = {name: errors.mean for name, errors in found.items()}
    return means | {f"{name}_by_shift": errors.grid(0.0) for name, errors in found.items()}


@measure
def lie_derivative(
    network: Network, images: jax.Array, labels: jax.Array, options: Options
) -> dict[str, Value]:
    """Lie derivative for translation, by layer and end to end.

    ``total`` is the local equivariance error of the logits. For each step ``layer1``: ``layer1``
    is its contribution to it, ``layer1_interior`` the contribution of positions that no border
    reaches, ``layer1_relative`` and ``layer1_relative_interior`` the size of its own derivative
    relative to its output (:func:`.invariance.layerwise_lie_errors`).
    """
    del labels
    chain = steps(network)
    reaches = [part.reach for part in chain.values()]
    found = functions.layerwise_lie_errors(
        list(chain.values()),
        images,
        strides=[reach.stride for reach in reaches],
        margins=[reach.margin for reach in reaches],
        border=options.border,
        batch=max(1, options.batch // 4),  # it holds many maps at a time
    )
    values: dict[str, Value] = {"total": found.total}
    for index, name in enumerate(chain):
        values[name] = float(found.contributions[index])
        values[f"{name}_interior"] = float(found.interior_contributions[index])
        values[f"{name}_relative"] = float(found.relative[index])
        values[f"{name}_relative_interior"] = float(found.interior[index])
    return values


@measure
def sensitivity(
    network: Network, images: jax.Array, labels: jax.Array, options: Options
) -> dict[str, Value]:
    """Translation-sensitivity map of the logits (:func:`.invariance.sensitivity_map`).

    ``mean`` over shifts, ``map`` by shift, ``radial`` by the distance of the shift, from 1.
    """
    del labels
    shifts, logits = shifts_up_to(options.largest_shift), layer_maps(network)["logits"]
    found = functions.sensitivity_map(logits, images, shifts, **arguments(options))
    return {"mean": found.mean, "map": found.grid(0.0), "radial": found.radial()}


@measure
def receptive_field(
    network: Network, images: jax.Array, labels: jax.Array, options: Options
) -> dict[str, Value]:
    """Effective receptive field of each layer (:func:`.receptive.effective_receptive_field`).

    For ``layer1`` ...: ``layer1_radius`` and ``layer1_deviation`` (the mean of both axes) in
    pixels, ``layer1_theory`` the side of the receptive field in theory, at most that of the image,
    and ``layer1_map``.
    """
    del labels
    found: dict[str, Value] = {}
    for name, part in maps_of(network).items():
        field = effective_receptive_field(part, images, seed=options.seed, batch=options.batch)
        sides = np.minimum(part.reach.field, images.shape[1:3])
        found[f"{name}_radius"] = field.radius
        found[f"{name}_deviation"] = float(np.mean(field.deviation))
        found[f"{name}_theory"] = float(np.mean(sides))
        found[f"{name}_map"] = field.map
    return found


@measure
def position_readout(
    network: Network, images: jax.Array, labels: jax.Array, options: Options
) -> dict[str, Value]:
    """How well a linear probe reads the position from features (:func:`.probe.position_readout`).

    The first half of the images trains the probe, the second half tests it. For ``image`` (the
    pixels themselves) and each layer: R² (``layer1_r2``), accuracy and its chance level, means of
    rows and columns; and the same with each image at a random place on the torus
    (``layer1_placed_r2`` ...), where only the network can tell the position.
    """
    del labels
    placed = at_random_places(images, options.seed)
    half = len(images) // 2
    maps: dict[str, Map] = {"image": _pixels, **maps_of(network)}
    found: dict[str, Value] = {}
    for suffix, pixels in (("", images), ("_placed", placed)):
        for name, part in maps.items():
            probe = readout(part, pixels[:half], pixels[half:], batch=options.batch)
            found[f"{name}{suffix}_r2"] = float(np.mean(probe.r_squared))
            found[f"{name}{suffix}_accuracy"] = float(np.mean(probe.accuracy))
            found[f"{name}_chance"] = float(np.mean(probe.chance))
    return found


def _pixels(images: jax.Array) -> jax.Array:
    """The images themselves."""
    return images
