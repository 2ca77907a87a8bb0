"""How probable a model finds images in one forward pass, for training and bits/dim: any head, any of our models.

Letters: N images, C channels, H rows, W columns, K levels, P parameters of a sub-pixel or pixel.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from ..distributions.base import Head
from ..distributions.categorical import Categorical


def head_of(model: nn.Module) -> Head:
    """The model's head, as a type checker knows it."""
    return cast(Head, model.head)


def inputs(model: nn.Module, values: Tensor, labels: Tensor | None, maps: Tensor | None) -> list[Tensor | None]:
    """What the model takes for integer values (N, C, H, W), with as many conditions as there are."""
    conditions = [labels, maps] if maps is not None else [labels] if labels is not None else []
    return [head_of(model).encode_images(values), *conditions]


def predict(model: nn.Module, values: Tensor, labels: Tensor | None, maps: Tensor | None) -> Tensor:
    """The output for integer values (N, C, H, W): (N, P, C, H, W), or (N, P, H, W) where channels share their parameters.

    An auto-encoder is asked to ``reconstruct``, given the code of the same images.
    """
    return getattr(model, "reconstruct", model)(*inputs(model, values, labels, maps))


def log_probs(head: Head, output: Tensor, values: Tensor) -> Tensor:
    """Log-probability of every sub-pixel of integer values (N, C, H, W): float64 (N, H, W, C), differentiable."""
    values = values.movedim(1, -1)
    if head.shared:
        parameters = output.movedim(1, -1).unsqueeze(-2).expand(*values.shape, -1)
    else:
        parameters = output.permute(0, 3, 4, 2, 1)  # (N, H, W, C, P)
    return head.log_prob(head.conditionals(parameters, values), values)


def loss_of(head: Head, output: Tensor, values: Tensor) -> Tensor:
    """Nats for each sub-pixel of integer values (N, C, H, W), differentiable."""
    if isinstance(head, Categorical):  # the same number in float32, which is faster by far where K is large
        return F.cross_entropy(output.float(), values)
    return -log_probs(head, output, values).mean()
