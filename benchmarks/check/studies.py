"""How long the paper's studies take, from measured training steps."""

import functools
import math
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from lrlc_jax.experiments.config import layer_config
from lrlc_jax.experiments.study import load_studies, members, study_layers
from lrlc_jax.layers import DEPTH, ConvConfig, LayerConfig, matched_width
from lrlc_jax.networks import PAPER_NETWORK
from lrlc_jax.training.train import PAPER_PROTOCOL

Shape: TypeAlias = tuple[int, int, int]
Values: TypeAlias = dict[str, Any]

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
STUDIES = ("essentials", "paper")
# Images for training and validation, and the shape of an image (docs/data.md).
DATA: dict[str, tuple[int, int, Shape]] = {
    "mnist": (55_200, 4_800, (28, 28, 1)),
    "cifar10": (45_000, 5_000, (32, 32, 3)),
    "celeba": (162_770, 19_867, (32, 32, 3)),
}
EVALUATION = 1 / 3  # of a training step: the forward pass, without two gradients
METHOD = (
    "Protocol of the paper: 10 seeds, 150 epochs, batch 512. Time of a run: compiling, and for "
    "each seed and epoch its steps, and a third of a step for each batch of validation images. A "
    "network that was not measured is scaled by multiply-adds: its plain convolutions at the rate "
    "of the measured convolution, its other layers at the rate of the measured layer of its kind "
    "with the nearest rank. Other sizes: some images have a size that was not measured. Seeds "
    "count one after the other; on an accelerator, several seeds together may be faster."
)


class Work(NamedTuple):
    """Multiply-adds of a network for one image, in plain convolutions and in other layers."""

    conv: int
    special: int


def work_of(layer: LayerConfig, shape: Shape) -> Work:
    """Multiply-adds of the paper's network; for LRLC as folded, without the network g.

    This equals :func:`lrlc_jax.networks.multiply_adds` for the kinds of layers in the studies, in a
    thousandth of the time.
    """
    rows, cols, channels = shape
    found = [0, 0]
    for position in range(1, DEPTH + 1):
        rows, cols, features = rows - 2, cols - 2, PAPER_NETWORK.channels
        special = position in layer.positions
        rank = getattr(layer, "rank", 1) if special else 1
        if special and layer.name == "wide_conv":
            features = matched_width(channels, features, rank, last=position == DEPTH)
        read = channels + 2 * (special and layer.name == "coord_conv")
        products = rank if layer.name == "lrlc_input_dependent" else 1
        found[special] += rows * cols * 9 * read * features * products
        channels = features
    return Work(*found)


@functools.cache
def runs_of(study: str) -> list[tuple[LayerConfig, int | None]]:
    """The distinct runs of a study: the layer, and the size of the noise around the images."""
    studies = load_studies(CONFIGS)
    chosen = next(one for one in studies if one.name == study)
    found: list[tuple[LayerConfig, int | None]] = []
    for member in members(chosen, studies):
        for layer in study_layers(member, {}):
            run = layer.simplest(), member.dataset.get("translate")
            if run not in found:
                found.append(run)
    return found


def estimates(steps: Sequence[Values]) -> list[Values]:
    """Seconds of each study on each data set; none before a convolution is measured."""
    measured = [step for step in steps if step["way"] is None]
    measured = [step for step in measured if step["precision"] == measured[0]["precision"]]
    if not any(step["layer"] == {"name": "conv"} for step in measured):
        return []
    rates = Rates(measured)
    return [
        {"study": study, "data": data, **study_time(study, data, rates)}
        for study in STUDIES
        for data in DATA
    ]


def study_time(study: str, data: str, rates: "Rates") -> Values:
    """Seconds of a study, the number of its runs, and whether a size of images was not measured."""
    training, validation, (rows, cols, channels) = DATA[data]
    batch, epochs, seeds = (
        getattr(PAPER_PROTOCOL, name) for name in ("batch_size", "epochs", "seeds")
    )
    batches = training // batch + EVALUATION * validation / batch
    seconds, scaled = 0.0, False
    for layer, noise in runs_of(study):
        shape = (noise or rows, noise or cols, channels)
        scaled |= shape not in rates.shapes
        step = batch * rates.seconds(layer, shape)
        seconds += rates.compile_seconds + seeds * epochs * batches * step
    return {"runs": len(runs_of(study)), "seconds": seconds, "scaled": scaled}


class Rates:
    """Seconds per multiply-add, from steps by the default way in one precision."""

    def __init__(self, steps: Sequence[Values]) -> None:
        self.by_shape: dict[Shape, list[tuple[LayerConfig, float]]] = {}
        for step in steps:
            layer, seconds = layer_config(step["layer"]), statistics.median(step["seconds"])
            rows, cols, channels = step["shape"]
            found = self.by_shape.setdefault((rows, cols, channels), [])
            found.append((layer, seconds / step["batch_size"]))
        self.shapes = {
            shape: found
            for shape, found in self.by_shape.items()
            if any(layer.name == "conv" for layer, _ in found)
        }
        self.compile_seconds = max(step["compile_seconds"] for step in steps)

    def seconds(self, layer: LayerConfig, shape: Shape) -> float:
        """Seconds of a training step for one image."""
        nearest = min(self.shapes, key=lambda other: abs(math.log(area(other) / area(shape))))
        measured = self.shapes[nearest]
        conv, special = work_of(layer, shape)
        plain = next(seconds for other, seconds in measured if other.name == "conv")
        conv_rate = plain / sum(work_of(ConvConfig(), nearest))
        same = [(other, seconds) for other, seconds in measured if other.name == layer.name]
        rate = conv_rate  # of kinds that were not measured, too
        if special and same:
            rank = getattr(layer, "rank", 1)
            other, seconds = min(
                same, key=lambda pair: abs(math.log(getattr(pair[0], "rank", 1) / rank))
            )
            work = work_of(other, nearest)
            rate = max(0.0, seconds - conv_rate * work.conv) / work.special
        return conv_rate * conv + rate * special


def area(shape: Shape) -> int:
    """Pixels of an image."""
    return shape[0] * shape[1]
