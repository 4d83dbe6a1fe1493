"""Stand-in until the experiments are merged: identities of runs."""

from lrlc_jax.experiments.plan import canonical, identity

__all__ = ["canonical", "identity"]
