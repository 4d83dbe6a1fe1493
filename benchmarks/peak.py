"""How many multiply-adds a second this machine really reaches: in plain matrix products."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.ours import wait
from benchmarks.timing import seconds_of
from lrlc_jax.networks import COMPUTATION, check_precision

# Rows, inner numbers and columns; the last is the product of a layer of 64 channels with a batch
# of 128 images of 28x28 positions.
PRODUCTS = ((2048, 2048, 2048), (4096, 4096, 4096), (100352, 576, 64))


def measure(repeats: int, precision: str = "float32") -> list[dict[str, Any]]:
    """Multiply-adds a second of each product, each time.

    Raises:
        InputError: if the device lacks the precision.
    """
    check_precision(precision)
    dtype, exactness = COMPUTATION[precision]
    product = jax.jit(functools.partial(jnp.dot, precision=exactness))
    found = []
    for rows, inner, cols in PRODUCTS:
        a, b = (
            jax.random.uniform(key, shape).astype(dtype or jnp.float32)
            for key, shape in zip(
                jax.random.split(jax.random.key(0)), ((rows, inner), (inner, cols)), strict=True
            )
        )
        program = product.lower(a, b).compile()

        def once(program: Any = program, a: jax.Array = a, b: jax.Array = b) -> None:
            wait(program(a, b))

        once()
        samples = [rows * inner * cols / seconds_of(once) for _ in range(repeats)]
        found.append({"product": [rows, inner, cols], "multiply_adds_per_second": samples})
    return found
