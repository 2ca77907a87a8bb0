"""Options that are more than a number: labels, encodings, shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

import pixelfast
from pixelfast.cli.conditions import labels_for
from pixelfast.cli.models import Opened, parse_encode, parse_shape


def test_labels_by_name_number_and_list() -> None:
    opened = Opened("pets", nn.Identity(), None, None, 3, ("tabby cat", "dog", "Toad"), own=True)

    def labels(text: str | None, n: int = 4) -> list[int]:
        result = labels_for(opened, text, n)
        assert result is not None
        return result.tolist()

    assert labels(None) == labels("all") == [0, 1, 2, 0]
    assert labels("DOG") == [1, 1, 1, 1]
    assert labels("tab, 2") == [0, 2, 0, 2]
    for wrong in ("t", "3", "-1", "", "dog,"):
        with pytest.raises(pixelfast.InvalidInput, match="classes are 0 tabby cat, 1 dog, 2 Toad"):
            labels(wrong)
    assert labels_for(replace(opened, labels=0, classes=()), None, 4) is None
    with pytest.raises(pixelfast.InvalidInput, match="takes no label"):
        labels_for(replace(opened, labels=0, classes=()), "0", 4)
    stranger = replace(opened, labels=0, classes=(), own=False)
    result = labels_for(stranger, "7,0", 3)
    assert result is not None
    assert result.tolist() == [7, 0, 7]
    with pytest.raises(pixelfast.InvalidInput, match="is not known"):
        labels_for(stranger, "all", 3)


def test_parsing_of_encodings_and_shapes() -> None:
    assert parse_encode("symmetric") == "symmetric"
    assert parse_encode("0.5,-1") == (0.5, -1.0)
    assert parse_shape("3,16,8") == parse_shape("3x16x8") == (3, 16, 8)
    with pytest.raises(pixelfast.InvalidInput, match="three positive integers"):
        parse_shape("0,16,8")
