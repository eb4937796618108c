"""Resized images: each pixel is exactly the mean of its area, for every ratio of sizes."""

import numpy as np
import pytest
from probes.atari_reference import resized

from qdojo.envs.pictures import AreaResize, grey


@pytest.mark.parametrize(
    ("height", "width", "size"), [(210, 160, 84), (250, 160, 84), (400, 600, 84), (96, 96, 84), (84, 84, 42), (7, 9, 8)]
)
def test_each_pixel_is_the_mean_of_its_area(height: int, width: int, size: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
    np.testing.assert_array_equal(AreaResize(height, width, size, size)(picture), resized(picture, size))


def test_halves_are_rounded_up_and_white_stays_white() -> None:
    assert AreaResize(2, 2, 1, 1)(np.array([[0, 0], [1, 1]], np.uint8)) == 1
    assert AreaResize(2, 2, 1, 1)(np.array([[0, 0], [0, 1]], np.uint8)) == 0
    assert (AreaResize(360, 640, 83, 83)(np.full((360, 640), 255, np.uint8)) == 255).all()


def test_colours_are_resized_one_by_one() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (210, 160, 3), np.uint8)
    made = AreaResize(210, 160, 84, 84)(picture)
    assert made.shape == (84, 84, 3)
    np.testing.assert_array_equal(made[..., 1], resized(picture[..., 1], 84))


def test_grey_is_luminance() -> None:
    colours = np.array([[[255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]]], np.uint8)
    luminance = colours[0] @ np.array([0.2126, 0.7152, 0.0722])
    np.testing.assert_allclose(grey(colours)[0], luminance, atol=1.0)
    assert grey(colours)[0, 0] == 255
