"""Images shifted by whole pixels."""

import numpy as np
import pytest

from lrlc_jax.data import DatasetConfig, load
from lrlc_jax.data.shift import moved
from lrlc_jax.errors import InputError


def digits(**settings):
    config = DatasetConfig(**settings)
    config.check()
    return load(config)


def test_pixels_move_down_and_right_and_the_border_is_repeated():
    image = np.arange(12, dtype=np.uint8).reshape(1, 3, 4, 1)
    expected = [[1, 2, 3, 3], [1, 2, 3, 3], [5, 6, 7, 7]]  # one down, one to the left
    np.testing.assert_array_equal(moved(image, 1, -1)[0, :, :, 0], expected)
    np.testing.assert_array_equal(moved(moved(image, 1, 0), 0, -1), moved(image, 1, -1))


@pytest.mark.parametrize("settings", [{}, {"translate": 12}])
@pytest.mark.parametrize(("rows", "cols"), [(2, 0), (-1, 3)])
def test_every_split_is_shifted_and_keeps_its_labels(settings, rows, cols):
    plain, shifted = digits(**settings), digits(**settings, shift=[rows, cols])
    assert shifted.image_shape == plain.image_shape
    for name, split in plain.splits.items():
        after = shifted.splits[name]
        np.testing.assert_array_equal(after.labels, split.labels)
        size = split.images.shape[1]
        kept = [slice(max(0, -by), size - max(0, by)) for by in (rows, cols)]
        new = [slice(max(0, by), size - max(0, -by)) for by in (rows, cols)]
        np.testing.assert_array_equal(
            after.images[:, new[0], new[1]], split.images[:, kept[0], kept[1]]
        )
        assert after.images.dtype == np.uint8


def test_fingerprint_and_title_tell_shifts_apart():
    cases = [{}, {"translate": 12}, *({"shift": s} for s in ([1, 0], [0, 1], [-1, 0]))]
    cases.append({"translate": 12, "shift": [1, 0]})
    found = [digits(**case) for case in cases]
    assert len({dataset.fingerprint for dataset in found}) == len(cases)
    assert len({dataset.title for dataset in found}) == len(cases)
    assert digits(shift=[1, 0]).fingerprint == found[2].fingerprint


def test_no_shift_changes_nothing():
    plain = digits()
    for shift in (None, [0, 0]):
        same = digits(shift=shift)
        assert (same.fingerprint, same.title) == (plain.fingerprint, plain.title)
        np.testing.assert_array_equal(same.test.images, plain.test.images)


def test_a_subset_of_shifted_images_are_the_shifted_images_of_the_subset():
    few, all_images = digits(train_size=7, shift=[0, 2]), digits(shift=[0, 2])
    np.testing.assert_array_equal(few.train.images, all_images.train.images[:7])
    assert few.fingerprint == all_images.fingerprint


@pytest.mark.parametrize(
    "settings",
    [
        {"shift": []},
        {"shift": [1]},
        {"shift": [1, 0, 0]},
        {"shift": [1.5, 0]},
        {"shift": [True, 0]},
        {"shift": [8, 0]},
        {"shift": [0, -8]},
        {"shift": [1, 0], "translate": 12, "translate_train": "fresh"},
    ],
)
def test_bad_values_are_refused_by_name(settings):
    with pytest.raises(InputError, match=r"dataset\.shift is \["):
        digits(**settings)
