"""The operators of dynconv as functions."""

from dynconv.ops.coefficients import coefficients
from dynconv.ops.dynamic_conv2d import dynamic_conv2d
from dynconv.ops.feature_gradient_norms import FeatureGradientNorms, feature_gradient_norms

__all__ = ["FeatureGradientNorms", "coefficients", "dynamic_conv2d", "feature_gradient_norms"]
