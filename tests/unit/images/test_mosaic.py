"""Small images drawn beside and below each other."""

from __future__ import annotations

import numpy as np

from mlp_mixer.images.mosaic import mosaic


def test_tiles_lie_in_reading_order_with_a_frame_around_each() -> None:
    tiles = np.arange(1, 4, dtype=np.uint8).reshape(3, 1, 1, 1)
    sheet = mosaic(tiles, columns=2, gap=1, colour=9)
    expected = [
        [9, 9, 9, 9, 9],
        [9, 1, 9, 2, 9],
        [9, 9, 9, 9, 9],
        [9, 3, 9, 9, 9],
        [9, 9, 9, 9, 9],
    ]
    assert sheet[:, :, 0].tolist() == expected


def test_each_pixel_becomes_a_square_and_frames_have_a_colour() -> None:
    tiles = np.array([[[[1, 2, 3]], [[4, 5, 6]]]], dtype=np.uint8)
    sheet = mosaic(tiles, columns=1, gap=1, colour=(7, 8, 9), scale=2)
    assert sheet.shape == (6, 4, 3)
    assert sheet.dtype == np.uint8
    assert (sheet[1:3, 1:3] == (1, 2, 3)).all()
    assert (sheet[3:5, 1:3] == (4, 5, 6)).all()
    assert (sheet[0] == (7, 8, 9)).all()
    assert (sheet[:, -1] == (7, 8, 9)).all()


def test_without_a_gap_tiles_touch() -> None:
    tiles = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    sheet = mosaic(tiles, columns=4, gap=0, colour=0)
    assert sheet[:, :, 0].tolist() == [[0, 1, 2, 3]]
