"""Settings of the layer under study: what all kinds have in common, and the registry by name.

Each kind of layer has its settings beside it, in its own module.
"""

import dataclasses
from typing import Any, ClassVar

from lrlc_jax.errors import InputError, at_least
from lrlc_jax.schema import Schema, whole, word

DEPTH = 3  # layers of the paper's network
ORDINALS = ("first", "second", "third")

# Settings by the layer's name; a subclass of LayerConfig with a name of its own registers itself.
LAYERS: "dict[str, type[LayerConfig]]" = {}


@dataclasses.dataclass
class LayerConfig(Schema):
    """The layer under study. ``name`` selects the subclass with its other settings.

    Attributes:
        TITLE: name of the layer in tables.
        STRUCTURE: settings that a study gives for each of its layers. All others are options, which
            the layers of a table share.
    """

    SECTION: ClassVar[str] = "layer"
    TITLE: ClassVar[str] = ""
    STRUCTURE: ClassVar[tuple[str, ...]] = ("name", "at", "rank")

    name: str = ""

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls):
            LAYERS[cls.name] = cls

    @property
    def positions(self) -> tuple[int, ...]:
        """Positions of the layer, from 1, ascending; the others have a plain convolution."""
        return ()

    @property
    def row(self) -> str:
        """Title with everything but the rank: the name of a table's row.

        >>> LRLCConfig(at=3, rank=4, normalization="none").row
        'LRLC (third layer), normalization none'
        """
        return self.TITLE

    @property
    def label(self) -> str:
        """Title with every setting that differs from the default.

        >>> LRLCConfig(at=3, rank=4).label, SpatialBiasConfig().label
        ('LRLC (third layer), rank 4', 'Convolution + spatial bias (all layers)')
        """
        return self.row

    def canonical(self) -> dict[str, Any]:
        """Settings in one form, whichever way they were given."""
        return dataclasses.asdict(self)

    def simplest(self) -> "LayerConfig":
        """The simplest layer with the same function: at rank 1 there may be a simpler one."""
        return self

    def counterpart(self) -> "LayerConfig | None":
        """The layer whose parameter count this one matches, if it is made to match one."""
        return None


@dataclasses.dataclass
class ConvConfig(LayerConfig):
    """Plain convolution at every position."""

    TITLE: ClassVar[str] = "Convolution"

    name: str = "conv"


@dataclasses.dataclass
class CoordConvConfig(LayerConfig):
    """Convolution over the image and two coordinate channels, at the network's input."""

    TITLE: ClassVar[str] = "CoordConv"

    name: str = "coord_conv"

    @property
    def positions(self) -> tuple[int, ...]:
        """The first: the coordinates are appended to the image."""
        return (1,)


@dataclasses.dataclass
class SpecialLayerConfig(LayerConfig):
    """A layer that replaces the convolution at some positions of the network."""

    at: Any = "all"

    @property
    def positions(self) -> tuple[int, ...]:
        """The positions that ``at`` names."""
        if self.at == "all":
            return tuple(range(1, DEPTH + 1))
        values = self.at if isinstance(self.at, list | tuple) else [self.at]
        return tuple(sorted(set(values)))

    @property
    def row(self) -> str:
        """Title, positions, and options that differ from the default."""
        names = [ORDINALS[position - 1] for position in self.positions]
        where = f"{' and '.join(names)} layer{'s' * (len(names) > 1)}"
        defaults = type(self)()
        changed = [
            f", {field.name} {getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if field.name not in LayerConfig.STRUCTURE
            and getattr(self, field.name) != getattr(defaults, field.name)
        ]
        where = "all layers" if len(names) == DEPTH else where
        return f"{self.TITLE} ({where}){''.join(changed)}"

    def canonical(self) -> dict[str, Any]:
        """Settings with the positions as a list."""
        return super().canonical() | {"at": list(self.positions)}

    def check(self) -> None:
        """Refuse a position outside of the network, too."""
        super().check()
        at = self.at if isinstance(self.at, list | tuple) else [self.at]
        valid = all(isinstance(a, int) and not isinstance(a, bool) and 1 <= a <= DEPTH for a in at)
        if self.at != "all" and not (at and valid):
            positions = ", ".join(map(str, range(1, DEPTH + 1)))
            raise InputError(
                f"layer.at is {self.at!r}; the network has the positions {positions}: "
                "give one of them, a list, or 'all'."
            )


@dataclasses.dataclass
class RankedLayerConfig(SpecialLayerConfig):
    """A layer with a rank, which validation accuracy chooses."""

    at: Any = 3
    rank: int = whole(4)

    @property
    def label(self) -> str:
        """Row and rank."""
        return f"{self.row}, rank {self.rank}"


@dataclasses.dataclass
class SpatialBiasConfig(SpecialLayerConfig):
    """Convolution with a spatial bias: LRLC of rank 1."""

    TITLE: ClassVar[str] = "Convolution + spatial bias"

    name: str = "spatial_bias"
    sharing: str = word("row_column", "row", "column", "full")


@dataclasses.dataclass
class LocallyConnectedConfig(SpecialLayerConfig):
    """A filter bank of its own for every position."""

    TITLE: ClassVar[str] = "Locally connected"

    name: str = "locally_connected"
    at: Any = 3
    fan_in: str = word("keras", "position")


@dataclasses.dataclass
class WideConvConfig(RankedLayerConfig):
    """Convolution widened to the parameter count of LRLC (section 4.1)."""

    TITLE: ClassVar[str] = "Wide convolution"

    name: str = "wide_conv"

    def simplest(self) -> LayerConfig:
        """At rank 1 the width is that of a plain convolution.

        >>> WideConvConfig(rank=1).simplest()
        ConvConfig(name='conv')
        """
        return ConvConfig() if self.rank == 1 else self

    def counterpart(self) -> LayerConfig:
        """LRLC of the same rank at the same positions."""
        return LRLCConfig(at=self.at, rank=self.rank)


def rank_1(layer: Any, sharing: str) -> LayerConfig:
    """LRLC of rank 1 as a simpler layer.

    The only weight of a softmax is 1, so that what remains is a convolution with the spatial bias.
    Other normalisations leave a weight that matters.

    >>> LRLCConfig(at=3, rank=1, sharing="full").simplest()
    SpatialBiasConfig(name='spatial_bias', at=3, sharing='full')
    """
    if layer.rank > 1 or layer.normalization != "softmax":
        return layer  # type: ignore[no-any-return]
    if not layer.use_spatial_bias:
        return ConvConfig()
    return SpatialBiasConfig(at=layer.at, sharing=sharing)


@dataclasses.dataclass
class LRLCConfig(RankedLayerConfig):
    """Low-rank local connectivity with combining weights that all examples share."""

    TITLE: ClassVar[str] = "LRLC"

    name: str = "lrlc"
    sharing: str = word("row_column", "row", "column", "full")
    normalization: str = word("softmax", "norm", "none")
    weights_init: str = word("constant", "random")
    use_spatial_bias: bool = True

    def simplest(self) -> LayerConfig:
        """At rank 1 a convolution with spatial bias (:func:`rank_1`)."""
        return rank_1(self, self.sharing)


@dataclasses.dataclass
class InputDependentLRLCConfig(RankedLayerConfig):
    """Low-rank local connectivity with combining weights computed from the layer's input."""

    TITLE: ClassVar[str] = "Input-dependent LRLC"

    name: str = "lrlc_input_dependent"
    normalization: str = word("softmax", "norm", "none")
    use_spatial_bias: bool = True

    def simplest(self) -> LayerConfig:
        """At rank 1 a convolution with a bias for each position (:func:`rank_1`)."""
        return rank_1(self, "full")


@dataclasses.dataclass
class MixedLRLCConfig(RankedLayerConfig):
    """Low-rank local connectivity with bases of different kernel sizes or dilations.

    ``kernel_sizes`` and ``dilations`` are a number for all bases, or a list with one for each: a
    number, or rows and columns.
    """

    TITLE: ClassVar[str] = "LRLC of mixed bases"
    STRUCTURE: ClassVar[tuple[str, ...]] = (
        *RankedLayerConfig.STRUCTURE,
        "kernel_sizes",
        "dilations",
        "input_dependent",
    )

    name: str = "lrlc_mixed"
    rank: int = whole(2)
    kernel_sizes: Any = 3
    dilations: Any = dataclasses.field(default_factory=lambda: [1, 2])
    input_dependent: bool = False
    sharing: str = word("row_column", "row", "column", "full")
    normalization: str = word("softmax", "norm", "none")
    use_spatial_bias: bool = True

    def check(self) -> None:
        """Refuse a number of kernel sizes or dilations other than the rank, too."""
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
