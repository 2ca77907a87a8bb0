"""The layout in which an output is read, where one that fits is irregular: its elements decide whether it could be meant."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pixelfast
from pixelfast import Categorical, UnsupportedModel, pipeline
from pixelfast.errors import AmbiguousLayout
from pixelfast.ir.graph import Graph
from pixelfast.trace.convert import Converted
from pixelfast.trace.output import OutputLayout, bind

SHAPE, HEAD = (2, 3, 2), Categorical(4)


class Rows(nn.Module):
    """Logits (N * H * W * C, K) of each pixel from the one so many rows above."""

    def __init__(self, above: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.above, self.conv = above, nn.Conv2d(2, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = F.pad(x, (0, 0, self.above, 0))[:, :, : x.shape[2]]
        return self.conv(seen).permute(0, 2, 3, 1).reshape(-1, 4)


def refuse(monkeypatch: pytest.MonkeyPatch, *refused: str) -> None:
    """Let no regular graph be found in some layouts."""

    def bound(converted: Converted, layout: OutputLayout) -> Graph:
        if layout.text in refused:
            raise UnsupportedModel(f"{layout.text} is irregular here")
        return bind(converted, layout)

    monkeypatch.setattr(pipeline, "bind", bound)


def test_the_other_layout_leaks() -> None:
    """One row above, (NCHW)K leaks."""
    assert pixelfast.check(Rows(1), SHAPE, HEAD).layout == "(NHWC)K"


def test_an_irregular_layout_that_is_autoregressive_counts() -> None:
    """Two rows above, both layouts are autoregressive; in (NCHW)K the output lies at several offsets."""
    with pytest.raises(AmbiguousLayout, match=r'layout="\(NHWC\)K" or layout="\(NCHW\)K"'):
        pixelfast.compile(Rows(2), SHAPE, HEAD)
    named = Categorical(4, layout="(NHWC)K")
    images = pixelfast.sample(Rows(2), 4, shape=SHAPE, head=named, seed=1)
    assert torch.equal(images, pixelfast.sample(Rows(2), 4, shape=SHAPE, head=named, seed=1, engine="naive"))


def test_the_layout_that_is_meant_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one is never taken in its place, and its leak is no news."""
    refuse(monkeypatch, "(NHWC)K")
    with pytest.raises(UnsupportedModel, match=r"\(NHWC\)K is irregular here"):
        pixelfast.compile(Rows(1), SHAPE, HEAD)
    with pytest.raises(UnsupportedModel, match=r"\(NHWC\)K is irregular here"):
        pixelfast.compile(Rows(1), SHAPE, HEAD, order="columns")


def test_an_irregular_layout_that_leaks_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "(NCHW)K")
    assert pixelfast.check(Rows(1), SHAPE, HEAD).layout == "(NHWC)K"
