"""Where things are kept between processes that can be made again."""

import os
import pathlib


def cache_folder() -> pathlib.Path:
    """The folder ``lrlc_jax`` in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(root) / "lrlc_jax"
