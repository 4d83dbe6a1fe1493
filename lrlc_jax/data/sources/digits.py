"""1,797 handwritten digits of 8x8 pixels, included in scikit-learn.

The test set of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, UCI, 1998).
It has no official splits: 900 images are held out for testing and 497 for validation. With only 400
training images networks still make errors to compare.
"""

import numpy as np

from lrlc_jax.data.source import Location, RawData, Source, Split


def read(location: Location) -> RawData:
    """All digits as one split."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 (slow import)

    del location
    digits = load_digits()
    images = digits.images.astype(np.uint8)[..., None]  # integers from 0 to 16
    return RawData({"train": Split(images, digits.target.astype(np.int32))})


SOURCE = Source(
    name="digits",
    readers={"builtin": read},
    num_classes=10,
    levels=16,
    scaled_to=(-1.0, 1.0),
    validation_size=497,
    test_size=900,
    fingerprint="4f419a5fdbc0cc7c975807edf8d273b6",
)
