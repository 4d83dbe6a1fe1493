"""The settings of each kind of layer."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from lrlc_jax.errors import InputError, at_least, one_of

DEPTH = 3  # layers of the paper's network

SHARINGS = ("row_column", "row", "column", "full")
NORMALIZATIONS = ("softmax", "norm", "none")


@dataclass
class LayerConfig:
    """The layer under study; ``name`` says which of the classes below the rest belongs to."""

    name: str = "conv"

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {}

    @property
    def positions(self) -> tuple[int, ...]:
        """Where the layer stands, from 1, in ascending order; a convolution stands elsewhere."""
        return ()

    def check(self) -> None:
        """Refuse an unknown word.

        Raises:
            InputError: naming the setting, its value and what is allowed.
        """
        for setting, allowed in self.CHOICES.items():
            one_of(f"layer.{setting}", getattr(self, setting), allowed)


@dataclass
class CoordConvConfig(LayerConfig):
    """Convolution over the image and two coordinate channels, at the network's input."""

    name: str = "coord_conv"

    @property
    def positions(self) -> tuple[int, ...]:
        """The first: the coordinates are appended to the image."""
        return (1,)


@dataclass
class SpecialLayerConfig(LayerConfig):
    """A layer that takes the place of the convolution at some positions of the network."""

    at: Any = "all"

    @property
    def positions(self) -> tuple[int, ...]:
        """The positions that ``at`` names."""
        if self.at == "all":
            return tuple(range(1, DEPTH + 1))
        values = self.at if isinstance(self.at, list | tuple) else [self.at]
        return tuple(sorted(set(values)))

    def check(self) -> None:
        """Refuse a position that is not in the network too."""
        super().check()
        at = self.at if isinstance(self.at, list | tuple) else [self.at]
        valid = all(isinstance(a, int) and not isinstance(a, bool) and 1 <= a <= DEPTH for a in at)
        if self.at != "all" and not (at and valid):
            positions = ", ".join(map(str, range(1, DEPTH + 1)))
            raise InputError(
                f"layer.at is {self.at!r}; the network has the positions {positions}: "
                "give one of them, a list, or 'all'."
            )


@dataclass
class SpatialBiasConfig(SpecialLayerConfig):
    """Convolution with a spatial bias: LRLC of rank 1."""

    name: str = "spatial_bias"
    sharing: str = "row_column"

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {"sharing": SHARINGS}


@dataclass
class LocallyConnectedConfig(SpecialLayerConfig):
    """A filter bank of its own for every position."""

    name: str = "locally_connected"
    at: Any = 3
    fan_in: str = "keras"

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {"fan_in": ("keras", "position")}


@dataclass
class RankedLayerConfig(SpecialLayerConfig):
    """A layer with a rank, which is chosen by validation accuracy."""

    at: Any = 3
    rank: int = 4

    def check(self) -> None:
        """Refuse a rank below 1 too."""
        super().check()
        at_least("layer.rank", self.rank, 1)


@dataclass
class WideConvConfig(RankedLayerConfig):
    """A convolution as wide as has the parameters of LRLC of this rank (section 4.1)."""

    name: str = "wide_conv"


@dataclass
class LRLCConfig(RankedLayerConfig):
    """Low-rank local connectivity with combining weights that all examples share."""

    name: str = "lrlc"
    sharing: str = "row_column"
    normalization: str = "softmax"
    weights_init: str = "constant"
    use_spatial_bias: bool = True

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        "sharing": SHARINGS,
        "normalization": NORMALIZATIONS,
        "weights_init": ("constant", "random"),
    }


@dataclass
class InputDependentLRLCConfig(RankedLayerConfig):
    """Low-rank local connectivity with combining weights that the layer's input determines."""

    name: str = "lrlc_input_dependent"
    normalization: str = "softmax"
    use_spatial_bias: bool = True

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {"normalization": NORMALIZATIONS}


@dataclass
class MixedLRLCConfig(RankedLayerConfig):
    """Low-rank local connectivity with bases of different kernel sizes or dilations.

    ``kernel_sizes`` and ``dilations`` are a number for all bases, or a list with one for each: a
    number, or rows and columns.
    """

    name: str = "lrlc_mixed"
    rank: int = 2
    kernel_sizes: Any = 3
    dilations: Any = field(default_factory=lambda: [1, 2])
    input_dependent: bool = False
    sharing: str = "row_column"
    normalization: str = "softmax"
    use_spatial_bias: bool = True

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        "sharing": SHARINGS,
        "normalization": NORMALIZATIONS,
    }

    def check(self) -> None:
        """Refuse as many kernel sizes or dilations as there are no bases, too."""
        super().check()
        for name in ("kernel_sizes", "dilations"):
            value = getattr(self, name)
            if isinstance(value, list) and len(value) != self.rank:
                raise InputError(
                    f"layer.{name} is {value}, for {len(value)} bases, and layer.rank is "
                    f"{self.rank}; give a number for all, or one for each basis."
                )
            for size in value if isinstance(value, list) else [value]:
                for number in size if isinstance(size, list) and len(size) == 2 else [size]:
                    at_least(f"layer.{name}", number, 1)
        if self.input_dependent and self.sharing != "full":
            raise InputError(
                f"layer.sharing is {self.sharing!r} and layer.input_dependent is true; weights "
                "that depend on the input are not shared: set layer.sharing=full."
            )


LAYERS: dict[str, type[LayerConfig]] = {
    "conv": LayerConfig,
    "coord_conv": CoordConvConfig,
    "wide_conv": WideConvConfig,
    "spatial_bias": SpatialBiasConfig,
    "locally_connected": LocallyConnectedConfig,
    "lrlc": LRLCConfig,
    "lrlc_input_dependent": InputDependentLRLCConfig,
    "lrlc_mixed": MixedLRLCConfig,
}
