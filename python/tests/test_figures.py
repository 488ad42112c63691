"""The arithmetic behind the pictures."""

from __future__ import annotations

import numpy as np
import pytest

from loci import figures


@pytest.mark.parametrize(
    ("rows", "sides"),
    [(1, (1, 1)), (2, (1, 2)), (16, (4, 4)), (17, (4, 5)), (20, (4, 5)), (21, (5, 5)), (16384, (128, 128))],
)
def test_sub_keys_of_a_number_of_rows(rows: int, sides: tuple[int, int]) -> None:
    assert figures.slot_sides(rows) == sides


def test_a_row_stands_at_its_two_sub_keys() -> None:
    grid = figures.slot_grid(np.arange(7))
    np.testing.assert_array_equal(grid, [[0, 1, 2], [3, 4, 5], [6, np.nan, np.nan]])


def test_a_large_table_is_averaged_without_its_missing_rows() -> None:
    rows = 1100**2 - 500
    counts = np.full(rows, 3)
    grid = figures.slot_grid(counts)
    assert max(grid.shape) <= figures.LARGEST_PICTURE
    np.testing.assert_array_equal(grid[np.isfinite(grid)], 3.0)


def test_seeds_meet_on_the_range_that_all_have() -> None:
    grid, values = figures.on_common_grid(
        [(np.array([0.0, 2.0, 4.0]), np.array([0.0, 2.0, 4.0])), (np.array([1.0, 3.0]), np.array([5.0, 5.0]))]
    )
    np.testing.assert_array_equal(grid, [1, 2, 3])
    np.testing.assert_array_equal(values, [[1, 2, 3], [5, 5, 5]])


def test_smoothing_keeps_a_straight_line() -> None:
    x = np.arange(100.0)
    smooth_x, smooth_y = figures.smooth((x, 2 * x))
    np.testing.assert_allclose(smooth_y, 2 * smooth_x)
