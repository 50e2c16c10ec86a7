"""Benchmarks of the operators and of whole training steps; the folder bench/ is the package dynconv.bench.

Read bench/README.md first: what is measured, and how to read a row.
"""
