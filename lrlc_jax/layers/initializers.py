"""How parameters start (section 4.1 and the authors' implementation)."""

from flax import nnx

he_uniform = nnx.initializers.he_uniform()  # filters of a convolution
glorot_uniform = nnx.initializers.glorot_uniform()  # the classifier, and the network g
zeros = nnx.initializers.zeros_init()  # biases
