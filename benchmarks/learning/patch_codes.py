"""Codes of two levels for images, as priors over codes are trained on them: vector quantisation of patches by k-means.

    python benchmarks/learning/patch_codes.py fashion5k.npz --out codes/

The upper level has one code for each 4x4 patch, the lower level one for each 2x2 patch of what the upper level leaves. No
auto-encoder is learned, but the codes are those of real images, and have what a prior over codes learns from: numbers without
an order, neighbours that depend on each other, and a lower level that depends on the upper one. Writes `upper.npz` and
`lower.npz` with X_train and X_test, uint8 (N, rows, columns), the second with the upper codes as s_train and s_test, and
`books.npz` with the two code books.

Letters: N images, P patches, D pixels of a patch, K codes, s rows and columns of a patch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

LEVELS = {"upper": (4, 128), "lower": (2, 64)}
"""Size of a patch and number of codes, for each level."""
ROUNDS = 15
SAMPLE = 40_000
"""Patches that a code book is learned from."""


def cut(images: np.ndarray, size: int) -> np.ndarray:
    """Images (N, H, W) as patches (N, H/s, W/s, s * s)."""
    count, height, width = images.shape
    tiles = images.reshape(count, height // size, size, width // size, size)
    return tiles.transpose(0, 1, 3, 2, 4).reshape(count, height // size, width // size, size * size)


def paste(patches: np.ndarray) -> np.ndarray:
    """The inverse of `cut`: (N, H/s, W/s, s * s) -> (N, H, W)."""
    count, rows, cols, pixels = patches.shape
    size = round(pixels**0.5)
    tiles = patches.reshape(count, rows, cols, size, size).transpose(0, 1, 3, 2, 4)
    return tiles.reshape(count, rows * size, cols * size)


def nearest(patches: np.ndarray, book: np.ndarray) -> np.ndarray:
    """The code of each patch: (..., D) and (K, D) -> int64 (...)."""
    return ((book**2).sum(1) - 2 * patches @ book.T).argmin(-1)


def learn(patches: np.ndarray, codes: int, seed: int = 0) -> np.ndarray:
    """A code book (K, D) for patches (P, D): k-means from random patches. A code that nothing is nearest to starts anew."""
    rng = np.random.default_rng(seed)
    chosen = patches[rng.permutation(len(patches))[:SAMPLE]]
    book = chosen[:codes].copy()
    for _ in range(ROUNDS):
        found = nearest(chosen, book)
        counts = np.bincount(found, minlength=codes)
        sums = np.zeros_like(book)
        np.add.at(sums, found, chosen)
        book = sums / np.maximum(counts, 1)[:, None]
        book[counts == 0] = chosen[rng.integers(len(chosen), size=int((counts == 0).sum()))]
    return book


def decode(codes: Sequence[np.ndarray], books: Sequence[np.ndarray]) -> np.ndarray:
    """Images (N, H, W) from the codes (N, H/s, W/s) of the upper level, or of both, whose patches are added."""
    return sum(paste(book[result]) for result, book in zip(codes, books, strict=False))  # type: ignore[return-value]


def write_codes(source: Path, folder: Path) -> None:
    """Learn both code books from the training images of ``source`` and write the codes of all images."""
    with np.load(source) as file:
        parts = {name: file[name].astype(np.float32) for name in ("X_train", "X_test")}
    folder.mkdir(parents=True, exist_ok=True)
    books, above = {}, {}
    for name, (size, codes) in LEVELS.items():
        patches = {part: cut(left, size) for part, left in parts.items()}
        books[name] = learn(patches["X_train"].reshape(-1, size * size), codes)
        found = {part: nearest(values, books[name]).astype(np.uint8) for part, values in patches.items()}
        np.savez_compressed(folder / f"{name}.npz", **found, **above)
        above = {"s_train": found["X_train"], "s_test": found["X_test"]}
        parts = {part: left - paste(books[name][found[part]]) for part, left in parts.items()}
        error = np.sqrt((parts["X_test"] ** 2).mean())
        print(f"{name}: {codes} codes of {size}x{size}, remaining error {error:.1f} grey values")
    np.savez_compressed(folder / "books.npz", **books)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="an .npz with grey X_train and X_test, whose rows and columns 4 divides")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args()
    write_codes(args.data, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
