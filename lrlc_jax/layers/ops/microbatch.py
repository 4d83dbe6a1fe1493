"""A few examples at a time, so that what is computed between input and output stays small."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Numbers that the intermediate results of one chunk may have. On CPU they then stay in the caches,
# which was faster than anything larger; an accelerator needs enough to be busy.
CHUNK = {"cpu": 2**21}
LARGE_CHUNK = 2**27

# The products with all bases, which the backward pass needs again. Up to so many numbers they are
# kept for it: a quarter less arithmetic, for a memory that grows with the rank.
PRODUCTS = "products with all bases"
KEPT = 2**28


def chunk_size() -> int:
    """Numbers that the intermediate results of one chunk may have on the default backend."""
    return CHUNK.get(jax.default_backend(), LARGE_CHUNK)


def in_chunks(
    function: Callable[[jax.Array], jax.Array], x: jax.Array, numbers: int, *, kept: int = 0
) -> jax.Array:
    """``function(x)``, for so few examples at a time that its intermediate results are small.

    The backward pass computes each chunk again: nothing but ``x`` is kept for it, and the products
    with all bases (:func:`.product.combined_product`) where they are few enough.

    Args:
        function: of images ``(batch, rows, cols, channels)``, each by itself.
        x: the images.
        numbers: size of the intermediate results of one example.
        kept: size of the products with all bases of one example.
    """
    limit = max(1, min(len(x), chunk_size() // numbers))
    even = next((d for d in range(limit, 0, -1) if len(x) % d == 0), limit)
    few = kept * len(x) <= KEPT
    policy = jax.checkpoint_policies.save_only_these_names(*([PRODUCTS] if few else []))
    # In a loop nothing would be gained by keeping the two computations apart (prevent_cse).
    few_at_once = jax.checkpoint(function, prevent_cse=False, policy=policy)
    # Where the chunks are equal, no smaller one is left over that would be compiled by itself.
    size = even if 2 * even > limit else limit
    looped = len(x) - len(x) % size
    y: jax.Array = jax.lax.map(few_at_once, x[:looped].reshape(looped // size, size, *x.shape[1:]))
    y = y.reshape(looped, *y.shape[2:])
    return y if looped == len(x) else jnp.concatenate([y, few_at_once(x[looped:])])
