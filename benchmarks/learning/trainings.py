"""The short trainings of every architecture: which data, which arguments of `pixelfast train`.

Small models, a few minutes on one processor core each: they show that an architecture learns, not how good it can be.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Training:
    """One run of `pixelfast train`.

    Attributes:
        data: a file in the folder of the data, or one of those that lie in benchmarks/data.
        levels: K, how many values a sub-pixel takes.
        arguments: the other arguments, as on the command line.
        source_levels: how many values the file's pixels can take.
        given: what the bits/dim are conditional on.
    """

    data: str
    levels: int
    arguments: str
    source_levels: int = 256
    given: str = ""


CODES = "fashion-codes"
"""The folder of what `patch_codes.py` makes of fashion5k.npz."""
SNAIL = "--model pixelsnail --features 32 --blocks 2 --residuals 2 --embed 16 --dropout 0.1"

TRAININGS: dict[str, Training] = {
    "pixelcnn": Training("digits8.npz", 17, "--model pixelcnn --features 32 --blocks 5 --epochs 15", 17),
    "gated": Training("digits8.npz", 17, "--model gated --features 32 --layers 5 --epochs 15", 17, given="label"),
    "pixelrnn row": Training("mnist5k.npz", 4, "--model pixelrnn --lstm row --features 32 --layers 3 --epochs 3"),
    "pixelrnn diagonal": Training(
        "mnist5k.npz", 4, "--model pixelrnn --lstm diagonal --features 32 --layers 2 --limit 1000 --epochs 3 --batch-size 16"
    ),
    "autoencoder": Training(
        "mnist5k.npz",
        4,
        "--model autoencoder --features 24 --layers 4 --code 10 --limit 2000 --epochs 3 --batch-size 16",
        given="code of the image",
    ),
    "pixelcnnpp": Training(
        "emoji16.npz",
        256,
        "--model pixelcnnpp --features 24 --blocks 1 --mixtures 5 --dropout 0.1 --limit 2000 --epochs 3 --batch-size 16",
        given="label",
    ),
    "pixelsnail": Training(
        "emoji16.npz",
        256,
        "--model pixelsnail --features 24 --blocks 2 --residuals 2 --mixtures 5 --dropout 0.1 --limit 1000 --epochs 3 "
        "--batch-size 8",
        given="label",
    ),
    "pixelsnail upper codes": Training(f"{CODES}/upper.npz", 128, f"{SNAIL} --limit 3000 --epochs 4 --batch-size 16", 128),
    "pixelsnail lower codes": Training(
        f"{CODES}/lower.npz", 64, f"{SNAIL} --upper 128 --limit 1000 --epochs 3 --batch-size 8", 64, "upper codes"
    ),
}
