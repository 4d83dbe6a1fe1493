"""Images at random places in random noise, which depend only on their position in the order."""

import hashlib

import numpy as np
import pytest

from lrlc_jax.data import DatasetConfig, Split, load
from lrlc_jax.data.order import build
from lrlc_jax.data.translate import place, translate
from lrlc_jax.errors import InputError
from tests.data.examples import made_up


def dataset(count=300, levels=255):
    rng = np.random.default_rng(0)

    def split(size):
        images = rng.integers(0, levels + 1, (size, 6, 5, 3), np.uint8)
        return Split(images, rng.integers(0, 2, size, np.int32))

    splits = {"train": split(count), "validation": split(50), "test": split(60)}
    return build(*made_up(splits, num_classes=2, levels=levels))


def corner(canvas, image):
    """Row and column of an image in its canvas."""
    rows, cols, _ = image.shape
    return next(
        (top, left)
        for top in range(canvas.shape[0] - rows + 1)
        for left in range(canvas.shape[1] - cols + 1)
        if np.array_equal(canvas[top : top + rows, left : left + cols], image)
    )


def test_every_image_is_placed_whole():
    plain, translated = dataset(), translate(dataset(), 9, fresh=False)
    assert translated.image_shape == (9, 9, 3)
    for name, split in translated.splits.items():
        before = plain.splits[name]
        np.testing.assert_array_equal(split.labels, before.labels)
        spots = [corner(c, i) for c, i in zip(split.images, before.images, strict=True)]
        assert len(set(spots)) == 4 * 5 or len(spots) < 100
        assert max(spots) == (3, 4)


def test_places_and_noise_are_uniform():
    images = np.zeros((40_000, 2, 2, 1), np.uint8)
    out = place(images, 5, 255, 0)
    free = (out != 0).sum(axis=(0, 3)) / len(out)
    # A pixel is noise unless the image covers it: corners are covered by 1 of 16 places.
    assert free[0, 0] == pytest.approx(15 / 16 * 255 / 256, abs=0.01)
    assert free[2, 2] == pytest.approx(12 / 16 * 255 / 256, abs=0.01)
    noise = out[:, 0, 0, 0][out[:, 0, 0, 0] > 0]
    counts = np.bincount(noise, minlength=256)[1:]
    expected = counts.sum() / 255
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 5 * (2 * 255) ** 0.5


def test_noise_has_the_levels_of_the_data():
    noise = place(np.zeros((500, 2, 2, 1), np.uint8), 8, 16, 0)
    counts = np.bincount(noise[:, :3].ravel(), minlength=17)
    assert len(counts) == 17
    assert counts[1:].min() > 0.8 * counts[1:].mean()


def test_subsets_nest_and_splits_differ():
    images = dataset().train.images
    np.testing.assert_array_equal(place(images[:7], 9, 255, 0), place(images, 9, 255, 0)[:7])
    blank = np.zeros((5, 2, 2, 1), np.uint8)
    assert not np.array_equal(place(blank, 9, 255, 0), place(blank, 9, 255, 1))


def test_the_rule_has_not_changed():
    out = place(np.zeros((4, 3, 2, 3), np.uint8), 7, 255, 2)
    assert hashlib.sha256(out.tobytes()).hexdigest()[:16] == "8ad30f5e55891d94"


def test_the_fingerprint_includes_the_translation():
    plain = dataset()
    found = [
        plain,
        translate(plain, 9, fresh=False),
        translate(plain, 9, fresh=True),
        translate(plain, 10, fresh=False),
    ]
    assert len({d.fingerprint for d in found}) == 4
    assert translate(dataset(), 9, fresh=False).fingerprint == found[1].fingerprint


def test_fresh_training_images_are_not_translated_yet():
    plain, fixed, fresh = dataset(), *(translate(dataset(), 9, fresh=f) for f in (False, True))
    np.testing.assert_array_equal(fresh.train.images, plain.train.images)
    assert fresh.image_shape == (9, 9, 3)
    np.testing.assert_array_equal(fresh.validation.images, fixed.validation.images)
    np.testing.assert_array_equal(fresh.test.images, fixed.test.images)


@pytest.mark.parametrize("canvas", [5, 6])
def test_a_canvas_that_is_not_larger_is_refused(canvas):
    with pytest.raises(InputError, match=f"dataset.translate is {canvas}, and .* 6x5 pixels"):
        translate(dataset(), canvas, fresh=False)


def test_any_data_set_can_be_translated():
    translated = load(DatasetConfig(translate=12, train_size=100))
    assert translated.train.images.shape == (100, 12, 12, 1)
    assert translated.train.images.max() == 16
