"""Measurements without training: statistics of images."""
