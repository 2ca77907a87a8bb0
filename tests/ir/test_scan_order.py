"""Orders of generation by themselves: when each pixel is drawn, and arrays turned and turned back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pixelfast.ir.scan_order import ORDERS, Order


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_an_order_says_when_each_pixel_is_drawn(order: Order) -> None:
    rows = range(7)[:: -1 if "bottom-up" in order.name else 1]
    cols = range(5)[:: -1 if "right-to-left" in order.name else 1]
    by_rows = list(itertools.product(rows, cols))
    by_columns = [(row, col) for col, row in itertools.product(cols, rows)]
    drawn = by_columns if order.name.startswith("columns") else by_rows
    assert [divmod(int(pixel), 5) for pixel in order.pixels(7, 5).reshape(-1)] == drawn
    ranks = order.ranks(7, 5)
    assert [int(ranks[at]) for at in drawn] == list(range(35))
    _, lines, pixels = order.shape((1, 7, 5))
    assert [order.place(line, pixel, 7, 5) for line in range(lines) for pixel in range(pixels)] == drawn
    array = np.arange(2 * 7 * 5 * 3).reshape(2, 7, 5, 3)
    turned = order.reordered(array, 1)
    assert turned.shape == (2, lines, pixels, 3)
    np.testing.assert_array_equal(turned.reshape(2, 35, 3)[:, 3], array[:, drawn[3][0], drawn[3][1]])
    np.testing.assert_array_equal(order.restored(turned, 1), array)
