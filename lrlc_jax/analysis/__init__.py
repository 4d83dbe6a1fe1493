"""Measurements of images, of trained networks, and of the geometry and cost of layers."""
