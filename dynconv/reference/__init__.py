"""The oracles: each operator as its formula, differentiable, in any floating dtype, and slow."""

from dynconv.reference.coefficients import coefficients
from dynconv.reference.dynamic_conv2d import dynamic_conv2d
from dynconv.reference.feature_gradient_norms import feature_gradient_norms

__all__ = ["coefficients", "dynamic_conv2d", "feature_gradient_norms"]
