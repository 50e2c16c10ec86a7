"""Modules: dynamic convolution, its coefficient branch, conversion of static models, mixtures of kernels,
discriminators and gradient reversal."""

from dynconv.nn.coefficient_branch import CoefficientBranch
from dynconv.nn.collect import CollectedCoefficients, collect_coefficients
from dynconv.nn.cond_conv2d import CondConv2d, from_condconv
from dynconv.nn.convert import to_dynamic
from dynconv.nn.discriminator_bank import DiscriminatorBank
from dynconv.nn.dynamic_conv2d import DynamicConv2d
from dynconv.nn.gradient_reversal import GradientReversal, gradient_reversal

__all__ = [
    "CoefficientBranch",
    "CollectedCoefficients",
    "CondConv2d",
    "DiscriminatorBank",
    "DynamicConv2d",
    "GradientReversal",
    "collect_coefficients",
    "from_condconv",
    "gradient_reversal",
    "to_dynamic",
]
