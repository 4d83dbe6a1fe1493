"""XLA's convolution, for a filter bank that all positions share."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from lrlc_jax.layers.ops.multilinear import Arrays, apply
from lrlc_jax.layers.ops.precision import BFLOAT16_PRODUCTS, Precision, rounded
from lrlc_jax.layers.ops.target import target
from lrlc_jax.layers.ops.window import Window


def lax_conv(x: jax.Array, bank: jax.Array, window: Window, precision: Precision) -> jax.Array:
    """The product of the patches of a regular grid with one filter bank ``(taps * in, out)``."""
    kernel = bank.reshape(*window.height_and_width, x.shape[-1], -1)
    if precision == BFLOAT16_PRODUCTS:
        return apply(RoundedConvolution(window), window.seen(x), kernel)
    return jax.lax.conv_general_dilated(
        window.pad(x),
        kernel,
        window.strides,
        "VALID",
        rhs_dilation=window.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


@dataclasses.dataclass(frozen=True)
class RoundedConvolution:
    """A convolution of operands rounded to bfloat16, and its gradients.

    The arrays are ``images`` up to the last pixel of any position ``(batch, rows, cols, in)``,
    ``kernel`` ``(kh, kw, in, out)`` and ``outputs`` ``(batch, rows_out, cols_out, out)``.
    """

    window: Window
    names = ("images", "kernel", "outputs")
    inner = None

    def __call__(self, wanted: str, arrays: Arrays, *, interpret: bool) -> jax.Array:
        """One array from the two others, in float32."""
        del interpret
        operands = [rounded(x) for x in arrays.values()]
        how: dict[str, Any] = {"precision": "highest"}
        if target().platform == "gpu":
            # XLA for a GPU has no convolution from bfloat16 to float32: it would store float32
            # copies. TF32 multiplies rounded operands exactly.
            how["precision"] = "tensorfloat32"
        if target().platform == "tpu":
            operands = [x.astype(jnp.bfloat16) for x in operands]
            how = {"preferred_element_type": jnp.float32}
        one, other = operands
        strides, dilation = self.window.strides, self.window.dilation
        assert dilation is not None
        if wanted == "outputs":
            return jax.lax.conv_general_dilated(
                one,
                other,
                strides,
                "VALID",
                rhs_dilation=dilation,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                **how,
            )
        if wanted == "images":
            spans = [(n - 1) * d for n, d in zip(one.shape, dilation, strict=False)]
            return jax.lax.conv_general_dilated(
                other,
                one[::-1, ::-1],
                (1, 1),
                [(span, span) for span in spans],
                lhs_dilation=strides,
                rhs_dilation=dilation,
                dimension_numbers=("NHWC", "HWOI", "NHWC"),
                **how,
            )
        # The sum over the examples: they take the place of the channels.
        return jax.lax.conv_general_dilated(
            one,
            other,
            dilation,
            "VALID",
            rhs_dilation=strides,
            dimension_numbers=("CHWN", "IHWO", "HWNC"),
            **how,
        )
