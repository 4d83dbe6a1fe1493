"""Reads the idx files in which MNIST is published."""

import gzip
import math
import pathlib
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lrlc_jax.data.sources.archive import check_published
from lrlc_jax.errors import InputError

UNSIGNED_BYTE = 8  # the type code of the format's third byte


def read(
    folder: pathlib.Path, name: str, shape: tuple[int, ...], published_sha256: Mapping[str, str]
) -> NDArray[np.uint8]:
    """The array of ``name`` or ``name.gz`` in ``folder``.

    The format: two zero bytes, a type code, the number of dimensions, each size as a big-endian
    32-bit number, the data.

    Raises:
        InputError: if the file is missing, truncated, does not hold bytes of that shape, or is
            not the one that was published.
    """
    unpacked = name.replace("-idx", ".idx")  # as some programs name what they unpack
    names = (f"{name}.gz", name, f"{unpacked}.gz", unpacked)
    path = next((folder / n for n in names if (folder / n).is_file()), None)
    if path is None:
        raise InputError(f"{folder} holds neither {name}.gz nor {name}.")
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); fetch it again.") from None
    if len(content) < 4 or content[:3] != bytes((0, 0, UNSIGNED_BYTE)):
        raise InputError(f"{path} is not an idx file of bytes; fetch it again.")
    start = 4 + 4 * content[3]
    found = tuple(np.frombuffer(content[4:start][: 4 * ((len(content) - 4) // 4)], ">i4").tolist())
    if found != shape:
        raise InputError(
            f"{path} says that it holds {'x'.join(map(str, found))} bytes where "
            f"{'x'.join(map(str, shape))} are expected; it is not the file of that name."
        )
    size = math.prod(shape)
    if len(content) - start != size:
        raise InputError(
            f"{path} holds {len(content) - start} bytes of data where {size} are expected; "
            "it is truncated or damaged: fetch it again."
        )
    check_published(content, "sha256", published_sha256[name], str(path))
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
