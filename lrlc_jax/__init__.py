"""Low-rank local connectivity (LRLC) in Flax, and the experiments that measure it.

The layers are in :mod:`lrlc_jax.layers` and need nothing but jax and flax. Everything else is the
pipeline that replicates "Revisiting Spatial Invariance with Low-Rank Local Connectivity"
(Elsayed, Ramachandran, Shlens and Kornblith, ICML 2020) with them.
"""

__version__ = "0.1.0"
