"""Batch normalisation with the moving statistics of TensorFlow, and its folding into a layer."""

import jax
import jax.numpy as jnp
from flax import nnx

from lrlc_jax.layers.base import PatchLayer
from lrlc_jax.layers.conv import Conv
from lrlc_jax.layers.local import LocallyConnected
from lrlc_jax.layers.ops.precision import floating
from lrlc_jax.layers.spatial_bias import SpatialBiasConv


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last.

    Unlike :class:`flax.nnx.BatchNorm`, the moving variance is updated by the *unbiased* variance of
    the batch, as in the fused operation of the authors' framework. The batch itself is normalised
    by its biased variance.

    Args:
        num_features: channels.
        momentum: weight of the old moving statistics in an update.
        epsilon: added to the variance.
        group: in training, normalise each group of this many consecutive examples by its own
            statistics, like devices that do not exchange theirs. The moving statistics take the
            means over the groups of the groups' means and unbiased variances. None: all examples
            are one group.
        axis_name: axis of the devices that share a batch in equal parts, under
            :func:`jax.shard_map`. Without ``group`` all normalise by the statistics of the whole
            batch.
    """

    def __init__(
        self,
        num_features: int,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        group: int | None = None,
        axis_name: str | None = None,
        param_dtype: jax.typing.DTypeLike = jnp.float32,
    ) -> None:
        self.momentum = momentum
        self.epsilon = epsilon
        self.group = group
        self.axis_name = axis_name
        self.scale = nnx.Param(jnp.ones((num_features,), param_dtype))
        self.bias = nnx.Param(jnp.zeros((num_features,), param_dtype))
        self.mean = nnx.BatchStat(jnp.zeros((num_features,), param_dtype))
        self.var = nnx.BatchStat(jnp.ones((num_features,), param_dtype))

    def __call__(self, x: jax.Array, *, use_running_average: bool) -> jax.Array:
        """Normalise ``x`` ``(..., num_features)``; in training, update the moving statistics.

        The statistics have the type of the parameters.
        """
        x = floating(x)
        affine = self.statistics(x, use_running_average=use_running_average)
        factor, shift = (jnp.expand_dims(each, range(x.ndim - each.ndim)) for each in affine)
        return x * factor.astype(x.dtype) + shift.astype(x.dtype)

    def statistics(self, x: jax.Array, *, use_running_average: bool) -> tuple[jax.Array, jax.Array]:
        """Factor and shift of each channel ``(num_features,)`` that normalise ``x``.

        Training updates the moving statistics. With groups it returns those of each example,
        ``(batch, 1, ..., num_features)``.

        Raises:
            ValueError: if ``group`` does not divide the batch.
        """
        if use_running_average:
            return self.affine(self.mean[...], self.var[...])
        values = x.astype(self.mean.dtype)
        if self.group is not None:
            if len(x) % self.group:
                raise ValueError(f"group is {self.group}; it must divide the batch of {len(x)}")
            values = values.reshape(-1, self.group, *x.shape[1:])
        axes = tuple(range(values.ndim - x.ndim, values.ndim - 1))
        mean = jnp.mean(values, axis=axes)
        square = jnp.mean(jnp.square(values), axis=axes)
        count = values.size // mean.size
        if self.axis_name is not None and self.group is None:
            mean, square = jax.lax.pmean((mean, square), self.axis_name)
            count *= jax.lax.axis_size(self.axis_name)
        # Variance from the two moments. The mean of squared differences would store the
        # differences for the backward pass, which took longer than all the rest.
        var = jnp.maximum(square - jnp.square(mean), 0)
        unbiased = var * (count / max(count - 1, 1))
        affine = self.affine(mean, var)
        if self.group is None:
            self.update(mean, unbiased)
            return affine
        moments = jnp.mean(mean, axis=0), jnp.mean(unbiased, axis=0)
        self.update(*(jax.lax.pmean(moments, self.axis_name) if self.axis_name else moments))
        factor, shift = (
            jnp.expand_dims(jnp.repeat(each, self.group, axis=0), range(1, x.ndim - 1))
            for each in affine
        )
        return factor, shift

    def update(self, mean: jax.Array, unbiased: jax.Array) -> None:
        """Move the moving statistics towards those of a batch."""
        keep = self.momentum
        self.mean[...] = keep * self.mean[...] + (1 - keep) * jax.lax.stop_gradient(mean)
        self.var[...] = keep * self.var[...] + (1 - keep) * jax.lax.stop_gradient(unbiased)

    def affine(self, mean: jax.Array, var: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Factor and shift of each channel for normalisation by this mean and variance.

        Mean and variance are ``(num_features,)``, or ``(groups, num_features)``.
        """
        scale, bias = (
            jnp.expand_dims(each[...], range(mean.ndim - 1)) for each in (self.scale, self.bias)
        )
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return factor, bias - mean * factor


def fold_batch_norm(layer: PatchLayer, norm: BatchNorm) -> PatchLayer:
    """One layer in place of a layer and its batch normalisation, for inference.

    Args:
        layer: a convolution or a locally connected layer; it is not changed.
        norm: the normalisation by moving statistics.

    Raises:
        ValueError: for another layer.
    """
    if isinstance(layer, SpatialBiasConv) or not isinstance(layer, Conv | LocallyConnected):
        raise ValueError(
            f"layer is a {type(layer).__name__}; batch normalisation can be folded into Conv, "
            "CoordConv and LocallyConnected (see to_locally_connected)"
        )
    folded = nnx.clone(layer)
    factor, shift = norm.affine(norm.mean[...], norm.var[...])

    def over(values: jax.Array, ndim: int) -> jax.Array:
        return jnp.expand_dims(values, range(ndim - 1))

    kernel = layer.kernel[...]
    folded.kernel[...] = kernel * over(factor, kernel.ndim)
    bias = jnp.zeros_like(shift) if layer.bias is None else layer.bias[...]
    folded.bias = nnx.data(nnx.Param(bias * over(factor, bias.ndim) + over(shift, bias.ndim)))
    return folded
