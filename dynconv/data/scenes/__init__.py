"""Driving scenes: images with a class for every pixel."""
