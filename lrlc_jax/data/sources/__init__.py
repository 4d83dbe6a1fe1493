"""The data sets: each module here declares one as ``SOURCE``."""

import importlib
import pkgutil
from collections.abc import Iterable

from lrlc_jax.data.source import Source


def discover(folders: Iterable[str]) -> dict[str, Source]:
    """The data sets declared in the modules of this package, by name."""
    names = [f"{__name__}.{module.name}" for module in pkgutil.iter_modules(folders)]
    sources = [importlib.import_module(name).SOURCE for name in names]
    return {source.name: source for source in sources}


SOURCES = discover(__path__)
