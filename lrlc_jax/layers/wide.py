"""The width at which a convolution has the parameters of an LRLC layer (section 4.1)."""


def matched_width(in_features: int, features: int, rank: int, *, last: bool = False) -> int:
    """Channels of a wide convolution that stands for LRLC of a rank with ``features`` channels.

    LRLC has K filter banks where a convolution has one. A wider convolution has more filters, and
    makes the layer after it take more channels; the width shares the parameters between the two.
    The last layer has none after it but the classifier, and is K times as wide.

    >>> matched_width(64, 64, rank=4), matched_width(64, 64, rank=4, last=True)
    (160, 256)
    """
    if last:
        return rank * features
    return (rank * in_features + features) * features // (in_features + features)
