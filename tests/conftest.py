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
def strict_types():
    """No implicit promotion of types."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def optax_types():
    """Implicit promotion, which optax relies on; for tests that train in this process."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def quick_compilation():
    """Few of XLA's optimisations; for many small programs of which none is timed."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def shared(*parts: str) -> pathlib.Path:
    """A path in the optional folder with reference numbers and data; skips where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{'/'.join(parts)} is not in LRLC_JAX_SHARED ({SHARED})")
    return path
