"""Micro-batches whose intermediates fit in cache."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Most values in the intermediates of one micro-batch. On CPU they then stay in the caches, which
# was faster than any larger size; an accelerator needs enough work at once.
SIZES = {"cpu": 2**21}
DEFAULT_SIZE = 2**27

# The backward pass needs the products with all bases again. They are kept for it up to this many
# values: a quarter less arithmetic, for memory that grows with the rank.
BASIS_PRODUCTS = "products with all bases"
MOST_KEPT = 2**28


def microbatch_size() -> int:
    """Most values in the intermediates of one micro-batch on the default backend."""
    return SIZES.get(jax.default_backend(), DEFAULT_SIZE)


def in_microbatches(
    function: Callable[[jax.Array], jax.Array], x: jax.Array, intermediates: int, *, kept: int = 0
) -> jax.Array:
    """Apply ``function`` in micro-batches whose intermediates fit in cache.

    The backward pass recomputes each micro-batch. Only ``x`` is kept for it, and the products with
    all bases (:func:`.product.combined_product`) if they have at most ``MOST_KEPT`` values.

    Args:
        function: of images ``(batch, rows, cols, channels)``, independent for each image.
        x: the images.
        intermediates: values in the intermediates of one image.
        kept: values in the products with all bases of one image.
    """
    limit = max(1, min(len(x), microbatch_size() // intermediates))
    even = next((d for d in range(limit, 0, -1) if len(x) % d == 0), limit)
    names = [BASIS_PRODUCTS] if kept * len(x) <= MOST_KEPT else []
    policy = jax.checkpoint_policies.save_only_these_names(*names)
    # Inside of a loop XLA does not merge the two computations (prevent_cse).
    step = jax.checkpoint(function, prevent_cse=False, policy=policy)
    # Micro-batches of equal size, if that is not too small: a remainder is a second program.
    size = even if 2 * even > limit else limit
    looped = len(x) - len(x) % size
    y: jax.Array = jax.lax.map(step, x[:looped].reshape(looped // size, size, *x.shape[1:]))
    y = y.reshape(looped, *y.shape[2:])
    return y if looped == len(x) else jnp.concatenate([y, step(x[looped:])])
