"""Statistics of images whose statistics are known."""

import numpy as np
import pytest

from lrlc_jax.analysis import images as analysis
from lrlc_jax.analysis.images import correlation, measure
from lrlc_jax.data import Split
from lrlc_jax.data.order import build
from tests.data.examples import made_up


def dataset(pixels, levels=255):
    split = Split(pixels, np.zeros(len(pixels), np.int32))
    none = split.take(slice(0))
    splits = {"train": split, "validation": none, "test": none}
    return build(*made_up(splits, num_classes=1, levels=levels))


def noise(count=500, rows=12, cols=10, channels=3, high=256):
    return np.random.default_rng(0).integers(0, high, (count, rows, cols, channels), np.uint8)


def test_moments_are_those_of_all_pixels(monkeypatch):
    monkeypatch.setattr(analysis, "CHUNK", 64)
    pixels = noise(high=200)
    found = measure(dataset(pixels), 100)
    scaled = pixels / 255
    np.testing.assert_allclose(found.mean, scaled.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(found.deviation, scaled.std(axis=(0, 1, 2)), rtol=2e-3)
    np.testing.assert_allclose(found.mean_image, scaled.mean(axis=0))
    np.testing.assert_allclose(found.deviation_image, scaled.std(axis=0, ddof=1))
    assert (found.count, found.sample) == (500, 100)


def test_alignment_is_0_for_noise_and_1_for_copies():
    assert measure(dataset(noise()), 10).alignment == pytest.approx(0, abs=2e-3)
    copies = np.repeat(noise(1), 50, axis=0)
    assert measure(dataset(copies), 10).alignment == pytest.approx(1)


def test_alignment_is_the_share_of_what_all_images_have_in_common():
    common, own = noise(1, high=128), noise(2_000, high=128)
    assert measure(dataset(common + own), 10).alignment == pytest.approx(0.5, abs=0.03)
    moved = np.stack([np.roll(common[0], i % 12, axis=0) for i in range(1200)])
    assert measure(dataset(moved), 10).alignment < 0.15


def test_correlation_is_pearsons(monkeypatch):
    monkeypatch.setattr(analysis, "CHUNK", 7)
    pixels = noise(40).cumsum(axis=1).astype(np.uint8)
    for axis in (1, 2):
        found = correlation(pixels, axis)
        moved = np.moveaxis(pixels.astype(float), axis, 0)
        for distance in (0, 1, 4):
            x, y = moved[: len(moved) - distance], moved[distance:]
            pairs = [np.corrcoef(x[..., c].ravel(), y[..., c].ravel())[0, 1] for c in range(3)]
            assert found[distance] == pytest.approx(np.mean(pairs), abs=1e-9)


def test_smooth_images_are_correlated_and_noise_is_not():
    found = measure(dataset(noise()), 500)
    assert found.correlation_down[0] == found.correlation_across[0] == pytest.approx(1)
    assert abs(found.neighbours) < 0.01
    smooth = np.repeat(np.repeat(noise(500, 3, 3), 4, axis=1), 4, axis=2)
    found = measure(dataset(smooth), 500)
    # 11 pairs of neighbours, 9 of which are in one block
    assert found.neighbours == pytest.approx(9 / 11, abs=0.01)


def test_stripes_are_correlated_along_themselves():
    rows = np.repeat(noise(500, cols=1), 10, axis=2)
    found = measure(dataset(rows), 500)
    np.testing.assert_allclose(found.correlation_across, 1)
    assert np.abs(found.correlation_down[1:8]).max() < 0.05


def test_pixels_that_do_not_vary_have_no_correlation():
    pixels = noise(20)
    pixels[:, 0] = 0
    found = correlation(pixels, axis=1)
    assert np.isnan(found[-1])
    assert not np.isnan(found[:-1]).any()
