"""PixelCNN auto-encoder: a convolutional encoder whose code conditions a Gated PixelCNN, trained end to end.

The decoder knows the pixels before each pixel and the code of the whole image; the code is what the encoder finds worth
telling that earlier pixels do not. It is a vector h, or a map of a quarter of the image's rows and columns.

Paper: van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu, "Conditional image generation with PixelCNN
decoders", NeurIPS 2016, section 2.4. Letters: N images, C colours, F features, K levels, D size of the code, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InvalidInput
from .condition import check_integer
from .gated import GatedPixelCNN

SHRINK = 4
"""The encoder halves the image twice."""
POOLED = 2
"""Rows and columns of what the encoder found, as averaged for a vector: a trace of where it was, for images of any size."""


class Encoder(nn.Module):
    """An encoded image (N, C, H, W) -> h (N, D), or (N, D, ceil(H / 4), ceil(W / 4)) if ``spatial``."""

    def __init__(self, channels: int, features: int, code: int, spatial: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, features, 3, padding=1)
        self.shrink = nn.ModuleList(nn.Conv2d(features, features, 3, 2, 1) for _ in range(2))
        self.code = nn.Conv2d(features, code, 1) if spatial else nn.Linear(POOLED**2 * features, code)
        self.spatial = spatial

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        for conv in self.shrink:
            y = F.relu(conv(y))
        return self.code(y if self.spatial else F.adaptive_avg_pool2d(y, POOLED).flatten(1))


class PixelCNNAutoencoder(nn.Module):
    """Logits of every sub-pixel given the sub-pixels before it and the code h of the image.

    ``forward(x, h)`` is the decoder, which is what is sampled: ``sample(model, n, cond=model.encode(images))`` draws images
    that share the code of those given (encoded as the head does). ``reconstruct(x)`` encodes the image first; it is what
    `pixelfast.training.train` trains. Its bits/dim are -log2 p(image | its code), no likelihood of images by themselves.

    Args:
        shape: the image's (C, H, W) of training and of default sampling; other H and W work too.
        levels: K, how many values a sub-pixel takes.
        features: F, channels of the encoder and of each of the decoder's stacks.
        layers: gated layers of the decoder.
        kernel: width of the decoder's gated convolutions, odd.
        code: D, numbers of the vector, or channels of the map.
        spatial: the code is a map (N, D, ceil(H / 4), ceil(W / 4)) instead of a vector (N, D).
        colour: as for `GatedPixelCNN`.

    Attributes:
        head: the distribution of a sub-pixel and the encoding of the input, ``Categorical(levels)``.
        config: the arguments, ready for JSON.

    Raises:
        InvalidInput: an argument is out of range.

    Example:
        >>> model = pixelfast.models.PixelCNNAutoencoder((1, 8, 8), levels=4, features=8, layers=1, code=3)
        >>> images = torch.zeros(2, 1, 8, 8, dtype=torch.int64)
        >>> code = model.encode(model.head.encode_images(images))  # (2, 3)
        >>> pixelfast.sample(model, n=2, seed=0, cond=code).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        levels: int = 256,
        features: int = 64,
        layers: int = 8,
        kernel: int = 3,
        code: int = 10,
        spatial: bool = False,
        colour: bool = True,
    ) -> None:
        super().__init__()
        check_integer("code", code, 1)
        condition = {"map_channels": code} if spatial else {"vector": code}
        self.decoder = GatedPixelCNN(shape, levels, features, layers, kernel, colour, **condition)
        self.shape, self.head = self.decoder.shape, self.decoder.head
        self.encoder = Encoder(self.shape[0], features, code, spatial)
        self.code, self.spatial = code, bool(spatial)
        self.config = {
            "shape": list(self.shape), "levels": levels, "features": features, "layers": layers, "kernel": kernel,
            "code": code, "spatial": self.spatial, "colour": colour,
        }  # fmt: skip

    def encode(self, x: Tensor) -> Tensor:
        """The code h of encoded images (N, C, H, W), as ``model.head.encode_images`` gives them."""
        return self.encoder(x)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """Logits (N, K, C, H, W) of an encoded image (N, C, H, W), given h (N, D) or (N, D, ceil(H / 4), ceil(W / 4)).

        Raises:
            InvalidInput: h is missing, or has the wrong type or shape.
        """
        rows, cols = (-(-size // SHRINK) for size in x.shape[2:])
        wanted = (x.shape[0], self.code, rows, cols) if self.spatial else (x.shape[0], self.code)
        if h is None:
            raise InvalidInput(
                f"an auto-encoder draws images of a code h of shape {wanted} and got none: pass cond=model.encode(images), "
                "or call reconstruct(x) to score images given their own code"
            )
        if not h.is_floating_point() or tuple(h.shape) != wanted:
            raise InvalidInput(f"h must be a float code of shape {wanted}, got {h.dtype} of shape {tuple(h.shape)}")
        if not self.spatial:
            return self.decoder(x, h)
        enlarged = h.repeat_interleave(SHRINK, 2).repeat_interleave(SHRINK, 3)
        return self.decoder(x, None, enlarged[:, :, : x.shape[2], : x.shape[3]])

    def reconstruct(self, x: Tensor) -> Tensor:
        """Logits (N, K, C, H, W) of an encoded image given its own code: a training target, not to be sampled from."""
        return self(x, self.encode(x))
