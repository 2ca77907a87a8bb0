"""How to train: the options and their ranges."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import InvalidInput

LEAST = {"epochs": 1, "batch_size": 1, "warmup": 0, "seed": 0, "shift": 0, "save_every": 0}
BELOW = {"lr": math.inf, "weight_decay": math.inf, "clip": math.inf, "ema": 1.0}


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Args:
        epochs: passes over the images.
        batch_size: images of one step; the last step of an epoch takes what is left.
        lr: the highest learning rate, reached after ``warmup`` steps and followed by a cosine down to 0.
        weight_decay: of AdamW.
        ema: decay of the averaged weights per step; 0 switches the average off.
        clip: largest norm of the gradient; 0 switches clipping off.
        seed: of the order of the images, of their augmentation, and of PyTorch's generator.
        shift: images are moved by up to so many pixels in each direction, their edge repeated.
        flip: images are mirrored left to right, half of the time.
        save_every: steps between two state files inside an epoch; 0 writes one at the end of each epoch only.
        bfloat16: run the model in bfloat16 where PyTorch's autocast deems it safe; evaluation stays in float32.
    """

    epochs: int = 10
    batch_size: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.01
    ema: float = 0.999
    clip: float = 1.0
    warmup: int = 100
    seed: int = 0
    shift: int = 0
    flip: bool = False
    save_every: int = 0
    bfloat16: bool = False

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidInput(f"{name} must be an integer of at least {least}, got {value!r}")
        for name, below in BELOW.items():
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < below:
                raise InvalidInput(f"{name} must be a number of at least 0 and below {below:g}, got {value!r}")
        if self.seed >= 2**63:
            raise InvalidInput(f"seed must be below 2^63, got {self.seed}")
        if self.lr == 0:
            raise InvalidInput("lr must be above 0")
