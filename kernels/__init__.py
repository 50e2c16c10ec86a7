"""Triton kernels and their launchers: no autograd and no dispatch (both live in `dynconv.ops`)."""
