"""The product of image patches with filter banks, and how it is computed."""
