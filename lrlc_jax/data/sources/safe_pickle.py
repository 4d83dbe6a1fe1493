"""Reads pickled arrays that somebody else wrote, and runs nothing that they name."""

import io
import pickle
from typing import Any

import numpy as np

from lrlc_jax.errors import InputError

# All that the batches of CIFAR-10 are made of, besides what pickle itself knows: numbers, bytes,
# lists and dictionaries. Python 2 wrote them, when numpy's modules had these names.
ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler that knows arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The few names that an array needs.

        Raises:
            pickle.UnpicklingError: for any other, before it is imported.
        """
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return ALLOWED[module, name]


def loads(content: bytes, what: str) -> Any:
    """Unpickle arrays, numbers, bytes, lists and dictionaries.

    Raises:
        InputError: if there is anything else in it, or it is damaged.
    """
    try:
        return ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises every kind
        raise InputError(
            f"{what} is not a pickle of plain arrays ({error}); fetch it again."
        ) from None
