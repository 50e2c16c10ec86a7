"""The operators: schema, shape function, autograd and choice of backend, one file each."""

from dynconv import backends
from dynconv.ops import coefficients, dynamic_conv2d, feature_gradient_norms

__all__ = ["coefficients", "dynamic_conv2d", "feature_gradient_norms"]

# After every schema is defined.
backends.load_native()
