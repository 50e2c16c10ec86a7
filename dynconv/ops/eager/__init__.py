"""Exact ways to compute the operators with the framework's own.

``aggregate``, ``linear`` and ``split`` are those of the dynamic convolution: each offers ``forward(problem) -> y`` and
``backward(problem, grad, ..., mask) -> Gradients``, and saves the inputs only, never a per-sample weight.
"""
