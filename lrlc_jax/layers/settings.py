"""Settings of the layer under study: common fields, the registry by name, and the layer's site."""

import dataclasses
from typing import Any, ClassVar

import jax
from flax import nnx

from lrlc_jax.errors import InputError
from lrlc_jax.layers.base import PatchLayer
from lrlc_jax.layers.ops.product import Precision, Way
from lrlc_jax.layers.ops.window import Padding, Pair
from lrlc_jax.schema import Schema, whole

DEPTH = 3  # layers of the paper's network
ORDINALS = ("first", "second", "third")

# Settings by the name of the layer. Every subclass of LayerConfig with a name registers itself.
LAYERS: "dict[str, type[LayerConfig]]" = {}


@dataclasses.dataclass(frozen=True)
class Site:
    """Place of a layer in a network: all arguments that do not depend on the kind of layer.

    Attributes:
        last: whether no layer follows.

    The others are arguments of :class:`lrlc_jax.layers.Conv`.
    """

    in_features: int
    out_features: int
    kernel_size: Pair
    strides: Pair
    padding: Padding
    use_bias: bool
    input_size: Pair
    dtype: jax.typing.DTypeLike | None = None
    precision: Precision = None
    way: Way | None = None
    last: bool = False

    def arguments(self, **changes: Any) -> dict[str, Any]:
        """Arguments of a layer's constructor, with some of them changed."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del values["last"]
        return values | changes


@dataclasses.dataclass
class LayerConfig(Schema):
    """The layer under study. ``name`` selects the subclass with its other settings.

    Attributes:
        TITLE: name of the layer in tables.
        STRUCTURE: settings that a study gives for each of its layers. All others are options that
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
        """Title with all but the rank: the name of a table row."""
        return self.TITLE

    @property
    def label(self) -> str:
        """Title with all settings that differ from the defaults."""
        return self.row

    def canonical(self) -> dict[str, Any]:
        """Settings in one form for all equivalent inputs."""
        return dataclasses.asdict(self)

    def simplest(self) -> "LayerConfig":
        """The simplest layer with the same function; some layers have one at rank 1."""
        return self

    def counterpart(self) -> "LayerConfig | None":
        """The layer whose parameter count this layer matches, if any."""
        return None

    def build(self, site: Site, rngs: nnx.Rngs) -> PatchLayer:
        """The layer at a site.

        Raises:
            ValueError: for an argument out of its range, or a kernel that does not fit.
        """
        raise NotImplementedError


@dataclasses.dataclass
class SpecialLayerConfig(LayerConfig):
    """A layer that replaces the convolution at some positions of the network."""

    at: Any = "all"

    @property
    def positions(self) -> tuple[int, ...]:
        """The positions in ``at``."""
        if self.at == "all":
            return tuple(range(1, DEPTH + 1))
        values = self.at if isinstance(self.at, list | tuple) else [self.at]
        return tuple(sorted(set(values)))

    @property
    def row(self) -> str:
        """Title, positions, and options that differ from the defaults."""
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
        """Also refuse a position outside of the network."""
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
    """A layer whose rank is chosen by validation accuracy."""

    at: Any = 3
    rank: int = whole(4)

    @property
    def label(self) -> str:
        """Row and rank."""
        return f"{self.row}, rank {self.rank}"
