"""The data sets. Each module here declares one as ``SOURCE``; there is no other list of them."""

import importlib
import pkgutil
from collections.abc import Iterable

from lrlc_jax.data.source import Source


def discover(folders: Iterable[str]) -> dict[str, Source]:
    """The data sets declared in the modules of this package, by name."""
    modules = [
        importlib.import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(folders)
    ]
    return {module.SOURCE.name: module.SOURCE for module in modules}


SOURCES = discover(__path__)
