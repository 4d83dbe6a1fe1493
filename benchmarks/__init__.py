"""Measures ours and the peers in alternation, each in a process of its own.

Absolute times say little beyond the machine they were taken on; what is compared is the ratio to
the plain convolution, round by round, so that a drift of the machine's speed cancels.
"""
