"""The operators of dynconv as functions."""

from dynconv.ops.coefficients import coefficients
from dynconv.ops.dynamic_conv2d import dynamic_conv2d

__all__ = ["coefficients", "dynamic_conv2d"]
