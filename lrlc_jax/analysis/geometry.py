"""Geometry of a stack of layers: receptive field, jump and first centre."""

import itertools
import operator
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lrlc_jax.layers.blur import blur_window
from lrlc_jax.layers.ops.window import Window
from lrlc_jax.networks import Network


class Slide(NamedTuple):
    """The window of a layer along one axis.

    Attributes:
        kernel: number of taps.
        stride: pixels from one position to the next.
        dilation: pixels from one tap to the next.
        padding: pixels before the first. Those after the last only add positions.
    """

    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0

    @property
    def reach(self) -> int:
        """Pixels from the first tap to the last."""
        return (self.kernel - 1) * self.dilation


class Field(NamedTuple):
    """The pixels of the input on which the positions of an output depend, along one axis.

    Attributes:
        size: receptive field: pixels of one position, from the first to the last. With strides or
            dilations above 1 it may skip pixels in between.
        jump: pixels from the centre of one position to that of the next.
        first_centre: centre of position 0, in pixels from the centre of the first pixel.
    """

    size: int = 1
    jump: int = 1
    first_centre: float = 0.0

    def ends(self, position: int) -> tuple[int, int]:
        """First and last pixel of a position, from 0; either may lie in the padding.

        >>> Field(size=9, jump=2, first_centre=4.0).ends(3)
        (6, 14)
        """
        first = int(self.first_centre - (self.size - 1) / 2) + position * self.jump
        return first, first + self.size - 1


def fields(slides: Iterable[Slide]) -> list[Field]:
    """The field of the input and that of the output of each layer, by recursion.

    A layer with kernel ``k``, stride ``s``, dilation ``d`` and padding ``p`` adds ``d (k - 1) j``
    to the receptive field, adds ``(d (k - 1) / 2 - p) j`` to the first centre, and multiplies the
    jump ``j`` by ``s`` (Dumoulin and Visin, 2016; Araujo, Norris and Sim, 2019).

    >>> [tuple(field) for field in fields([Slide(3), Slide(3, stride=2), Slide(3)])]
    [(1, 1, 0.0), (3, 1, 1.0), (5, 2, 2.0), (9, 2, 4.0)]
    """
    found = [Field()]
    for slide in slides:
        size, jump, centre = found[-1]
        size += slide.reach * jump
        centre += (slide.reach / 2 - slide.padding) * jump
        found.append(Field(size, jump * slide.stride, centre))
    return found


def closed_form(slides: Sequence[Slide]) -> Field:
    """The field of the last output, equal to that of :func:`fields`, without recursion.

    With jumps ``j_l = s_1 ... s_l``, the receptive field is 1 plus the sum of ``d_l (k_l - 1)
    j_(l-1)``, and the first centre is half of that sum, less the sum of ``p_l j_(l-1)``. For L
    equal layers the first sum is ``d (k - 1) (s^L - 1) / (s - 1)``, or ``d (k - 1) L`` at stride 1.

    >>> closed_form([Slide(3)] * 10).size
    21
    """
    strides = (slide.stride for slide in slides)
    *jumps, jump = itertools.accumulate(strides, operator.mul, initial=1)
    reach, padding = (
        sum(value * jump for value, jump in zip(values, jumps, strict=True))
        for values in ([s.reach for s in slides], [s.padding for s in slides])
    )
    return Field(1 + reach, jump, reach / 2 - padding)


def slides_of(windows: Iterable[Window]) -> tuple[list[Slide], list[Slide]]:
    """The windows of a stack along the rows and along the columns."""
    rows: list[Slide] = []
    cols: list[Slide] = []
    for window in windows:
        for axis, slides in enumerate((rows, cols)):
            taps = [tap[axis] for tap in window.taps]
            first = min(taps)  # mixed bases may leave out the corner of their grid
            padding = window.padding[axis][0] - first
            slides.append(Slide(max(taps) - first + 1, window.strides[axis], padding=padding))
    return rows, cols


def layer_windows(network: Network) -> list[list[Window]]:
    """The window of each layer of a network, and that of the blur after it if there is one."""
    found = []
    for position, layer in enumerate(network.layers):
        strides = network.subsampling[position] if network.subsampling else (1, 1)
        blur = [blur_window(layer.positions(), strides)] if strides != (1, 1) else []
        found.append([layer.window(), *blur])
    return found


def network_fields(network: Network) -> list[tuple[Field, Field]]:
    """The fields of each layer of a network along rows and columns, after its blur.

    They are those of the filters. Combining weights that depend on the input depend on all of it,
    by the mean over the positions.
    """
    windows: list[Window] = []
    found = []
    for own in layer_windows(network):
        windows += own
        rows, cols = map(closed_form, slides_of(windows))
        found.append((rows, cols))
    return found
