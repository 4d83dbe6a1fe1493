"""1,797 real handwritten digits of 8x8 pixels, which come with scikit-learn.

They are the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak,
UCI, 1998). They have no official split: 900 are for testing and 497 for
validation, and only 400 for training, so that networks still differ in what they get wrong.
"""

import numpy as np

from lrlc_jax.data.dataset import Dataset, DatasetConfig, Split
from lrlc_jax.data.order import build


def load(config: DatasetConfig) -> Dataset:
    """The digits; nothing is downloaded."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 (slow to import, rarely needed)

    digits = load_digits()
    images = digits.images.astype(np.uint8)[..., None]  # whole numbers from 0 to 16
    return build(
        "digits",
        config.source,
        {"train": Split(images, digits.target.astype(np.int32))},
        num_classes=10,
        levels=16,
        scaled_to=(-1.0, 1.0),
        validation_size=497,
        test_size=900,
    )
