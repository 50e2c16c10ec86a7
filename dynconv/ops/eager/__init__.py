"""Exact ways to compute the dynamic convolution with the framework's own operators.

Each module offers ``forward(problem) -> y`` and ``backward(problem, grad, ..., mask) -> Gradients``; all save the
inputs only, never a per-sample weight.
"""
