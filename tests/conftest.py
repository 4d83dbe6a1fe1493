"""Strictness for all tests, and the optional folder of reference numbers and data."""

import os
import pathlib
import signal

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# A shell that starts tests in the background has processes ignore Ctrl-C; some tests send it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = pathlib.Path(os.environ.get("LRLC_JAX_SHARED", ROOT.parent / "shared"))


@pytest.fixture(autouse=True)
def strict_types(request):
    """No implicit mixing of types, but where optax does it itself."""
    trains = request.path.parent.name == "training" or request.path.name == "test_tracking.py"
    promotion = "standard" if trains else "strict"
    with jax.numpy_dtype_promotion(promotion):
        yield


@pytest.fixture(autouse=True)
def quick_compilation(request):
    """Let XLA optimise little where there are many small programs, and none of them is measured."""
    names = ("test_golden.py", "test_network.py", "test_peers.py")
    quick = request.path.parent.name == "layers" or request.path.name in names
    jax.config.update("jax_disable_most_optimizations", quick)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def shared(*parts: str) -> pathlib.Path:
    """A path in the optional folder with reference numbers and data; skips where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{'/'.join(parts)} is not in LRLC_JAX_SHARED ({SHARED})")
    return path
