"""Masked convolutions by colour group: the causal building blocks of PixelCNN and of its gated successor.

Pixels come in raster order, and the colours of one pixel in the order R, G, B. Every feature map belongs to one colour
group, and the features of group g may know the colours before g of their own pixel (mask A), or those up to g (mask B):

    mask A, the first layer:  R sees no colour of its own pixel, G sees R, B sees R and G;
    mask B, all others:       features of R see those of R, features of G those of R and G, features of B all.

With ``colours=1`` (grey images, or colours that are independent given the pixels before) mask A hides the own pixel and
mask B shows it. Papers: van den Oord, Kalchbrenner, Kavukcuoglu, "Pixel recurrent neural networks" (ICML 2016), and
van den Oord et al., "Conditional image generation with PixelCNN decoders" (NeurIPS 2016).

Letters: N images, I channels in, O channels out, H rows, W columns.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InvalidInput

Mask = Literal["A", "B"]


def colour_groups(channels: int, colours: int, repeats: int = 1) -> Tensor:
    """The colour group of every channel: int64 (channels,), contiguous parts that differ by one channel at most.

    ``colour_groups(128, 3)`` has 43, 43 and 42 channels of groups 0, 1 and 2. With ``repeats=2`` the order starts again
    in the second half, as the two halves of a gated layer need it.

    Raises:
        InvalidInput: there are fewer channels than groups.

    Example:
        >>> pixelfast.models.colour_groups(7, 3)
        tensor([0, 0, 0, 1, 1, 2, 2])
    """
    if channels % repeats or channels // repeats < colours:
        raise InvalidInput(
            f"{channels} channels do not suffice for {repeats} x {colours} colour groups: every group needs a channel"
        )
    sizes = [len(part) for part in torch.arange(channels // repeats).tensor_split(colours)]
    return torch.arange(colours).repeat_interleave(torch.tensor(sizes)).repeat(repeats)


def same_pixel_mask(mask: Mask, groups_in: Tensor, groups_out: Tensor) -> Tensor:
    """Which channels may be seen at the own pixel: groups (I,) and (O,) -> bool (O, I)."""
    if mask not in ("A", "B"):
        raise InvalidInput(f"mask must be 'A' or 'B', got {mask!r}")
    before, after = groups_in.unsqueeze(0), groups_out.unsqueeze(1)
    return before < after if mask == "A" else before <= after


class MaskedConv2d(nn.Conv2d):
    """A convolution that sees the rows above, the pixels to the left, and of its own pixel what mask and group allow.

    Args:
        in_channels, out_channels: I and O.
        kernel_size: odd; the image keeps its size.
        mask: ``"A"`` for the first layer, ``"B"`` for the others.
        colours: how many colour groups the channels are divided into.
        repeats: 2 for an output of two halves, each with its own run of colour groups.

    Raises:
        InvalidInput: an even kernel, an unknown mask, or fewer channels than groups.

    Example:
        >>> layer = pixelfast.models.MaskedConv2d(1, 6, 3, "A")
        >>> layer.mask[0, 0]
        tensor([[1., 1., 1.],
                [1., 0., 0.],
                [0., 0., 0.]])
        >>> layer(torch.zeros(2, 1, 7, 5)).shape
        torch.Size([2, 6, 7, 5])
    """

    mask: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, mask: Mask, colours: int = 1, repeats: int = 1
    ) -> None:
        check_kernel(kernel_size)
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        centre = kernel_size // 2
        taps = torch.zeros_like(self.weight)  # (O, I, K, K)
        taps[:, :, :centre] = 1
        taps[:, :, centre, :centre] = 1
        groups = colour_groups(in_channels, colours), colour_groups(out_channels, colours, repeats)
        taps[:, :, centre, centre] = same_pixel_mask(mask, *groups).to(taps.dtype)
        self.register_buffer("mask", taps, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, I, H, W) -> (N, O, H, W)."""
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class VerticalConv2d(nn.Conv2d):
    """The vertical stack's convolution: a window above the pixel and as wide to the left as to the right.

    Mask A sees only the rows above. Its output therefore knows nothing of its own row, and the layers after it may see
    their own row too: mask B. The rows below are not part of the kernel, which is (K // 2 + 1, K).

    Raises:
        InvalidInput: an even kernel, or an unknown mask.

    Example:
        >>> layer = pixelfast.models.VerticalConv2d(1, 6, 3, "A")
        >>> layer.mask
        tensor([[1., 1., 1.],
                [0., 0., 0.]])
        >>> layer(torch.zeros(2, 1, 7, 5)).shape
        torch.Size([2, 6, 7, 5])
    """

    mask: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, mask: Mask) -> None:
        check_kernel(kernel_size)
        if mask not in ("A", "B"):
            raise InvalidInput(f"mask must be 'A' or 'B', got {mask!r}")
        self.reach = kernel_size // 2
        super().__init__(in_channels, out_channels, (self.reach + 1, kernel_size))
        taps = torch.ones(self.kernel_size)  # (K // 2 + 1, K)
        taps[-1] = float(mask == "B")
        self.register_buffer("mask", taps, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, I, H, W) -> (N, O, H, W)."""
        padded = F.pad(x, (self.reach, self.reach, self.reach, 0))
        return self._conv_forward(padded, self.weight * self.mask, self.bias)


class HorizontalConv2d(nn.Conv2d):
    """The horizontal stack's convolution: the pixels to the left, and of the own pixel what mask and group allow.

    The kernel is (1, K // 2 + 1), and its last tap is the own pixel. ``repeats=2`` makes an output of two halves, each
    with its own run of colour groups.

    Raises:
        InvalidInput: an even kernel, an unknown mask, or fewer channels than groups.

    Example:
        >>> layer = pixelfast.models.HorizontalConv2d(1, 6, 3, "A")
        >>> layer.mask[0, 0]
        tensor([[1., 0.]])
        >>> layer(torch.zeros(2, 1, 7, 5)).shape
        torch.Size([2, 6, 7, 5])
    """

    mask: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, mask: Mask, colours: int = 1, repeats: int = 1
    ) -> None:
        check_kernel(kernel_size)
        self.reach = kernel_size // 2
        super().__init__(in_channels, out_channels, (1, self.reach + 1))
        taps = torch.ones_like(self.weight)  # (O, I, 1, K // 2 + 1)
        groups = colour_groups(in_channels, colours), colour_groups(out_channels, colours, repeats)
        taps[:, :, 0, -1] = same_pixel_mask(mask, *groups).to(taps.dtype)
        self.register_buffer("mask", taps, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, I, H, W) -> (N, O, H, W)."""
        padded = F.pad(x, (self.reach, 0, 0, 0)) if self.reach else x
        return self._conv_forward(padded, self.weight * self.mask, self.bias)


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel by itself, which keeps a causal model causal.

    With several colour groups each group is normalised by itself: a mean over all channels would let the features of R
    see those of B. Normalisation leaves little more of two channels than the sign of their difference, and nothing of
    one channel, so groups should be wide.

    Raises:
        InvalidInput: a group has one channel only.

    Example:
        >>> norm = pixelfast.models.ChannelNorm(6, colours=3)
        >>> norm(torch.randn(2, 6, 7, 5)).shape
        torch.Size([2, 6, 7, 5])
    """

    def __init__(self, channels: int, colours: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        self.sizes = torch.bincount(colour_groups(channels, colours)).tolist()
        if min(self.sizes) < 2:
            raise InvalidInput(
                f"layer normalisation of {channels} channels in {colours} colour groups: a group of one channel "
                "becomes a constant, so more features are needed"
            )
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, I, H, W) -> (N, I, H, W)."""
        groups = zip(x.split(self.sizes, 1), self.weight.split(self.sizes), self.bias.split(self.sizes), strict=True)
        normed = [F.layer_norm(g.movedim(1, -1), (len(w),), w, b, self.eps).movedim(-1, 1) for g, w, b in groups]
        return normed[0] if len(normed) == 1 else torch.cat(normed, 1)


def check_kernel(kernel_size: int) -> None:
    """Raise InvalidInput unless ``kernel_size`` is an odd, positive integer."""
    if isinstance(kernel_size, bool) or not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
        raise InvalidInput(f"a kernel size must be an odd, positive integer, so that it has a centre: got {kernel_size!r}")
