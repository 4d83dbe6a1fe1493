"""Numbers of the authors' implementation, and their names for our parameters (README.md)."""

import json
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

FOLDER = pathlib.Path(__file__).parent
EVERY, MANY = 7, 1000  # of a compared array of more than MANY values, every 7th is stored


def load(path: pathlib.Path, field: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a reference file and its JSON description."""
    with np.load(path) as arrays:
        return dict(arrays), json.loads(str(arrays[field]))


def close(actual: Any, expected: np.ndarray, *, relative: float = 1e-4, absolute: float = 1e-5):
    """Within the tolerance of the reference numbers, for all values or every 7th."""
    actual = np.asarray(actual)
    if actual.shape != expected.shape:
        assert actual.size > MANY
        actual = actual.ravel()[::EVERY]
    assert actual.shape == expected.shape
    bound = relative * np.abs(expected).max(initial=0) + absolute
    np.testing.assert_array_less(np.abs(actual - expected), bound)


PATHS: dict[str, tuple[str | int, ...]] = {
    "kernel": ("kernel",),
    "kernel_bases": ("bases",),
    "combining_weights_row": ("weights", "row"),
    "combining_weights_col": ("weights", "column"),
    "combining_weights": ("weights", "full"),
    "bias_row": ("spatial_bias", "row"),
    "bias_col": ("spatial_bias", "column"),
    "spatial_bias": ("spatial_bias", "full"),
    "bias_channels": ("bias",),
    "bias": ("bias",),
    "gamma": ("scale",),
    "beta": ("bias",),
    "moving_mean": ("mean",),
    "moving_variance": ("var",),
    "dim_reduction": ("weights", "low"),
    "squeeze": ("weights", "squeeze"),
    "excite": ("weights", "excite"),
    "proj": ("weights", "proj"),
    "depthwise_kernel": ("kernel",),
    **{f"depthwise_dilation{2**i}": ("weights", "depthwise", i) for i in range(4)},
    **{f"kernel_bases{k}": ("bases", "kernels", k) for k in range(4)},
}


def pick(module: nnx.Module | nnx.State, name: str) -> Any:
    """The parameter of a layer or network that the reference calls ``name``.

    Names are ``kernel_bases`` or ``squeeze.bias`` in a layer, and in a network those behind the
    owner: ``layer2.kernel_bases``, ``bn1.gamma``, ``logits.bias``.
    """
    path: list[str | int] = []
    for part in name.split("."):
        if part == "logits":
            path.append("classifier")
        elif part[:5] == "layer":
            path += ["layers", int(part[5:]) - 1]
        elif part[:2] == "bn":
            path += ["norms", int(part[2:]) - 1]
        else:
            path += PATHS[part]
    for key in path:
        indexed = isinstance(module, nnx.State | nnx.List)
        module = module[key] if indexed else getattr(module, key)
    return module


def is_basis(name: str) -> bool:
    """Whether a weight has the bases of all ranks, ours ``(K, kh, kw, in, out)``."""
    return name.rsplit(".", maxsplit=1)[-1] == "kernel_bases"


def theirs(name: str, value: Any) -> np.ndarray:
    """Our weight in their order; bases are ``(kh, kw, in, K * out)``."""
    return np.moveaxis(value, 0, 3).ravel() if is_basis(name) else np.ravel(value)


def put(module: nnx.Module, arrays: dict[str, np.ndarray], prefix: str, names: list[str]) -> None:
    """Set the parameters of ``module`` to the reference's."""
    for name in names:
        variable, value = pick(module, name), arrays[prefix + name]
        if is_basis(name):
            rank, *kernel, features = variable.shape
            value = np.moveaxis(value.reshape(*kernel, rank, features), 3, 0)
        variable[...] = jnp.asarray(value.reshape(variable.shape))


def check_gradients(
    grads: Any,
    arrays: dict[str, np.ndarray],
    prefix: str,
    names: list[str],
    *,
    absolute: float = 1e-5,
):
    """Compare the gradients of parameters."""
    for name in names:
        ours = theirs(name, pick(grads, name)[...])
        close(ours, arrays[prefix + name].ravel(), absolute=absolute)
