"""Measures that do not train anything: of images."""
