"""Data sets on the command line: the options that say what files leave open, and the labels of their classes."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from .. import data
from ..data.arrays import ALL_AXES
from ..data.picture_files import FRAMES, PALETTES
from ..errors import InvalidInput
from .models import Opened, positive

DATA = (
    "an .npz (X_train, y_train, X_test, y_test, or images and labels; levels), an .npy of images, an idx file as MNIST comes "
    "in, or a folder of pictures of one size, where subfolders are classes, or the parts train and test of a split"
)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """The options that say what the data leave open."""
    data_ = parser.add_argument_group("what the data leave open", "Asked for where it is needed: nothing of this is guessed.")
    data_.add_argument(
        "--source-levels",
        type=positive,
        metavar="S",
        help="values that a pixel can take. Default: what the file says (`levels` of an .npz), or its type: 2 of booleans and "
        "pictures of 1 bit; 256 and 65536 of bytes and pictures of 8 and 16 bits that need all of these",
    )
    data_.add_argument(
        "--test-fraction", type=float, default=0.1, metavar="F", help="held out where the data have no test part. Default: 0.1"
    )
    data_.add_argument(
        "--axes", choices=ALL_AXES, help="of an array, where its shape leaves a choice, or channels are not 1 or 3"
    )
    data_.add_argument("--background", metavar="COLOUR", help="behind transparent pixels: white, black, #ffcc00")
    data_.add_argument("--palette", choices=PALETTES, help="of pictures with a palette, what counts. Default: colours")
    data_.add_argument("--frames", choices=FRAMES, help="of files with several pictures, which are images. Default: all")


def read_data(args: argparse.Namespace, levels: int | None, test_fraction: float | None = None) -> data.Dataset:
    """The data set of --data, as the options of `add_data_options` have it read."""
    names = ("source_levels", "axes", "background", "palette", "frames", "max_bytes")
    fraction = args.test_fraction if test_fraction is None else test_fraction
    return data.load(args.data, levels, test_fraction=fraction, **{name: getattr(args, name) for name in names})


def labels_as_known(opened: Opened, found: data.Dataset, labels: Tensor | None) -> Tensor | None:
    """Labels of a data set as the numbers that the model has for the same classes: by name where both have names.

    Raises:
        InvalidInput: the model has no such class.
    """
    if labels is None:
        return None
    if opened.classes and found.classes and opened.classes != found.classes:
        unknown = [name for name in found.classes if name not in opened.classes]
        if unknown:
            raise InvalidInput(f"{opened.name} knows the classes {', '.join(opened.classes)}, but the data have {unknown[0]}")
        labels = torch.tensor([opened.classes.index(name) for name in found.classes])[labels]
    if opened.labels and len(labels) and int(labels.max()) >= opened.labels:
        raise InvalidInput(f"{opened.name} has {opened.labels} classes, but the data's labels go up to {int(labels.max())}")
    return labels
