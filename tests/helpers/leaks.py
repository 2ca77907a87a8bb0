"""A check that every call says alike of a module that it sees what it predicts."""

from __future__ import annotations

import pytest
import torch
from foreign import GREY
from torch import nn

import pixelfast
from pixelfast import Categorical, NotAutoregressive

HEAD = Categorical(4)


def leak(module: nn.Module, shape: tuple[int, int, int] = GREY, head: pixelfast.Head = HEAD) -> NotAutoregressive:
    """The error that sampling raises; `check` reports the same one."""
    torch.manual_seed(0)
    with pytest.raises(NotAutoregressive) as caught:
        pixelfast.sample(module, 1, shape=shape, head=head)
    error = caught.value
    report = pixelfast.check(module, shape, head)
    assert not report.autoregressive
    assert report.leak is not None
    assert (report.leak.layer, report.leak.offset) == (error.layer, error.offset)
    assert "autoregressive: NO" in str(report)
    assert error.layer in dict(module.named_modules())
    assert error.layer in str(error)
    assert error.node in str(error)
    assert f"offset {error.offset[0]:+d} rows, {error.offset[1]:+d} columns" in str(error) or "whole image" in str(error)
    return error
