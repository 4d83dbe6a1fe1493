"""Time and memory of our layers and of their peers, measured side by side.

Absolute times depend on the machine. The benchmark reports ratios to the plain convolution within
each round, so that drifts of the machine's speed cancel.
"""
