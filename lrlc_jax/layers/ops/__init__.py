"""The product of image patches with filter banks, and the ways to compute it."""
