"""Settings as dataclasses: a field has its default and its allowed values."""

import dataclasses
from typing import Any, ClassVar

from lrlc_jax.errors import LARGEST, in_range, one_of


def word(*allowed: str, default: str | None = None) -> Any:
    """A field with a fixed set of words, by default the first; ``default=""`` means None."""
    value = None if default == "" else default or allowed[0]
    return dataclasses.field(default=value, metadata={"allowed": allowed})


def whole(default: int | None, *, low: int = 1, high: int = LARGEST) -> Any:
    """A field for a whole number from ``low`` to ``high``, or for None if that is the default."""
    return dataclasses.field(default=default, metadata={"range": (low, high)})


@dataclasses.dataclass
class Schema:
    """Base of all settings; a subclass is a dataclass and names its section of a configuration.

    Settings in ``NOT_IN_IDENTITY`` are not part of a run's identity.
    """

    SECTION: ClassVar[str] = ""
    NOT_IN_IDENTITY: ClassVar[tuple[str, ...]] = ()

    def canonical(self) -> dict[str, Any]:
        """Settings that determine results, in canonical form: equal for equivalent settings."""
        values = vars(self)
        return {name: value for name, value in values.items() if name not in self.NOT_IN_IDENTITY}

    def changed(self) -> dict[str, Any]:
        """Settings whose canonical form differs from that of the default."""
        own, default = self.canonical(), type(self)().canonical()
        return {name: getattr(self, name) for name in own if own[name] != default[name]}

    def check(self) -> None:
        """Raise an :class:`InputError` with the name of the first field with an invalid value."""
        for field in dataclasses.fields(self):
            value, name = getattr(self, field.name), f"{self.SECTION}.{field.name}".lstrip(".")
            if value is None and field.default is None:
                continue
            if "allowed" in field.metadata:
                one_of(name, value, field.metadata["allowed"])
            if "range" in field.metadata:
                in_range(name, value, *field.metadata["range"])
