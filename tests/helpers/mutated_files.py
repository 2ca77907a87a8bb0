"""Files with a few things wrong: seeds of every kind that pixelfast reads, and what reading a mutated one may do.

Each mutated file either gives a legal value or raises one of pixelfast's own errors. Run as a program, this is a worker of the
long form: `python tests/helpers/mutated_files.py FIRST COUNT` prints what came of the cases FIRST ... as JSON.
"""

from __future__ import annotations

import faulthandler
import gzip
import json
import os
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from file_mutations import bytes_of, mutated
from PIL import Image
from safetensors.torch import save as safetensors
from torch import Tensor, nn

import pixelfast
from pixelfast.cli.conditions import read_conditions
from pixelfast.data import dataset as data
from pixelfast.errors import PixelfastError
from pixelfast.files import checkpoint
from pixelfast.models import GatedPixelCNN, PixelCNN
from pixelfast.pictures import read_given
from pixelfast.training.options import TrainOptions
from pixelfast.training.train import train

SECONDS = 20
"""A case that takes longer ends the worker."""
MEMORY = 3 * 2**30
"""Bytes of a worker: what it needs without any case, and the limit of a file."""
SHAPE = (1, 7, 5)
Bytes = dict[str, bytes]
"""The files of a case, by their names in its folder."""


def integers(values: Tensor, below: int) -> None:
    """Images or labels must be int64 of 0 .. below-1."""
    assert values.dtype == torch.int64
    assert not values.numel() or 0 <= int(values.min()) <= int(values.max()) < below


def legal_dataset(found: data.Dataset) -> None:
    for images, labels, maps in (
        (found.images, found.labels, found.maps),
        (found.test_images, found.test_labels, found.test_maps),
    ):
        assert images.ndim == 4
        integers(images, found.levels)
        if labels is not None:
            integers(labels, 2**62)
            assert labels.shape == images.shape[:1]
        if maps is not None:
            assert maps.ndim == 4
            assert len(maps) == len(images)
            assert torch.isfinite(maps).all()
    assert len(found.images)
    assert all(isinstance(name, str) for name in found.classes)


def read_data(folder: Path) -> None:
    path = folder if (folder / "0.txt").exists() else next(file for file in folder.iterdir())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        legal_dataset(data.load(path, test_fraction=0.5))


def read_arrays(folder: Path) -> None:
    (path,) = folder.iterdir()
    found = read_conditions(str(path))
    for array in found.values() if isinstance(found, dict) else [found]:
        assert isinstance(array, Tensor)
    images, levels = data.read_images(path, SHAPE)
    assert images.shape[1:] == SHAPE
    assert np.issubdtype(images.dtype, np.integer) or images.dtype == np.bool_
    assert levels is None or levels >= 2


def read_picture(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = read_given(next(folder.glob("a.*")), SHAPE, 256, 256)
        assert found.shape == (1, *SHAPE)
        assert -1 <= found.min() <= found.max() < 256
        read_data(folder)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))


def read_weights(folder: Path) -> None:
    (path,) = folder.iterdir()
    model = net()
    before = {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}
    pixelfast.load(path, model)
    assert before == {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}


def read_checkpoint(folder: Path) -> None:
    model = pixelfast.load(folder)
    channels, height, width = model.shape  # type: ignore[misc]
    head = model.head
    assert min(channels, height, width) >= 1
    assert torch.isfinite(head.table(model.shape)).all()  # type: ignore[operator,union-attr]
    with torch.no_grad():
        assert sum(parameter.numel() for parameter in model.parameters()) < 2**26


def resume(folder: Path) -> None:
    images = torch.arange(4 * 35).view(4, *SHAPE) % 3
    options = TrainOptions(epochs=1, batch_size=4, warmup=0)
    (report,) = train(PixelCNN(SHAPE, levels=3, features=4, blocks=1), images, options=options, folder=folder)
    assert report.epoch == 1


@dataclass(frozen=True)
class Kind:
    """Files as they should be, and what reads them.

    Attributes:
        seeds: cases without a mutation.
        target: how the name of the file that is mutated ends.
        read: raises AssertionError where what it reads is no legal value.
        share: how often the kind is drawn.
    """

    seeds: tuple[Bytes, ...]
    target: str
    read: Callable[[Path], None]
    share: int = 4


def kinds() -> dict[str, Kind]:
    """Every kind of file, by name."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (4, 7, 5)).astype(np.uint8)
    grey[0, 0, :2] = 0, 255
    labels = np.arange(4) % 2
    state = net().state_dict()
    nested = {"epoch": 3, "model": {f"module.{name}": tensor for name, tensor in state.items()}, "lr": [0.1, 0.2]}
    legacy = {"_use_new_zipfile_serialization": False}
    idx = b"\0\0\x08\x03" + struct.pack(">III", *grey.shape) + grey.tobytes()
    mapped = bytes_of(lambda f: np.savez(f, images=grey, labels=labels, maps=grey[:, :2, :2] / 255, levels=256))
    npz = bytes_of(lambda f: np.savez(f, images=grey, labels=labels, classes=np.array(["a", "b"]), levels=256))
    packed = bytes_of(lambda f: np.savez_compressed(f, X_train=grey, y_train=labels, X_test=grey, y_test=labels, levels=256))
    drawn = bytes_of(lambda f: np.savez_compressed(f, seed=np.uint64(0), levels=256, images=grey[:, None], labels=labels))
    npy = bytes_of(lambda f: np.save(f, grey[:, None]))
    folder = Path(tempfile.mkdtemp())
    checkpoint.save(GatedPixelCNN(SHAPE, levels=3, features=4, layers=1, classes=2), folder, {"classes": ["a", "b"]})
    saved = {file.name: file.read_bytes() for file in folder.iterdir()}
    other = folder / "run"
    resume(other)
    states = {file.name: file.read_bytes() for file in other.iterdir()}
    result = {
        "pt": Kind(
            tuple({"a.pt": bytes_of(lambda f, s=s: torch.save(s, f))} for s in (state, nested)),  # type: ignore[misc]
            "pt",
            read_weights,
        ),
        "pt before 1.6": Kind(
            tuple({"a.pt": bytes_of(lambda f, s=s: torch.save(s, f, **legacy))} for s in (state, nested)),  # type: ignore[misc]
            "pt",
            read_weights,
        ),
        "safetensors": Kind(({"a.safetensors": safetensors(state)},), "safetensors", read_weights),
        "config.json": Kind((saved,), "json", read_checkpoint),
        "checkpoint folder": Kind((saved,), "safetensors", read_checkpoint, 1),
        "training.pt": Kind((states,), "pt", resume, 1),
        "npz": Kind(({"a.npz": npz}, {"a.npz": packed}, {"a.npz": mapped}), "npz", read_data),
        "npy": Kind(({"a.npy": npy},), "npy", read_data, 2),
        "written by sample": Kind(({"a.npz": drawn}, {"a.npy": npy}), "", read_arrays),
        "idx": Kind(({"a-images-idx3-ubyte": idx},), "ubyte", read_data, 2),
        "idx.gz": Kind(({"a-images-idx3-ubyte.gz": gzip.compress(idx)},), "gz", read_data, 2),
    }
    for name, options in PICTURES.items():
        ending = name.split()[0].lower()
        modes = (Image.fromarray(grey[0]), Image.fromarray(grey[0]).convert("RGB"), Image.fromarray(grey[0]).convert("P"))
        usable = modes[:2] if ending in ("jpeg", "webp") else modes
        cases = tuple(
            {
                "0.txt": b"",
                f"a.{ending}": picture_file(picture, ending, options),
                "b.png": bytes_of(lambda f: Image.fromarray(grey[1]).save(f, "png")),
            }
            for picture in usable
        )
        result[name] = Kind(cases, ending, read_picture, 2)
    return result


def picture_file(picture: Image.Image, ending: str, options: dict[str, Any]) -> bytes:
    return bytes_of(lambda file: picture.save(file, ending, **options))


PICTURES: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {},
    "GIF": {},
    "BMP": {},
    "TIFF": {},
    "TIFF deflated": {"compression": "tiff_deflate"},
    "WebP": {},
    "WebP lossless": {"lossless": True},
}


def run(first: int, count: int, known: dict[str, Kind] | None = None) -> Counter[str]:
    """What came of the cases first .. first+count-1: how many of each kind were accepted, or refused by which error.

    Raises:
        AssertionError: naming the case, where reading one did anything else.
    """
    known = known or kinds()
    names = [name for name, kind in known.items() for _ in range(kind.share)]
    result: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        for case in range(first, first + count):
            result[one(case, known, names, Path(place))] += 1
    return result


def one(case: int, known: dict[str, Kind], names: list[str], place: Path) -> str:
    """Mutate and read the files of one case."""
    rng = np.random.default_rng([7, case])
    name = names[int(rng.integers(len(names)))]
    kind = known[name]
    seed, other = (kind.seeds[int(rng.integers(len(kind.seeds)))] for _ in range(2))
    folder = place / str(case)
    folder.mkdir()
    for file, content in seed.items():
        if file.endswith(kind.target) and file != "b.png":
            content = mutated(content, next(reversed(other.values())), rng)
        (folder / file).write_bytes(content)
    there = {file.name for file in folder.iterdir()}
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        kind.read(folder)
        outcome = "accepted"
    except PixelfastError as error:
        outcome = type(error).__name__
    except Exception as error:
        raise AssertionError(f"case {case} ({name}) raises {type(error).__name__}: {error}") from error
    finally:
        faulthandler.cancel_dump_traceback_later()
    after = {file.name for file in folder.iterdir()}
    assert after == there or name == "training.pt", f"case {case} ({name}) leaves {after - there}"
    assert {file.name for file in place.iterdir()} == {folder.name}, f"case {case} ({name}) writes elsewhere"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return f"{name}: {outcome}"


def work(first: int, count: int) -> None:
    """A worker of the long form: less memory than a bomb needs, and a folder of its own to work in, which stays empty."""
    import resource

    torch.set_num_threads(1)
    known = kinds()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        found = run(first, count, known)
        assert not os.listdir(place), "something was written into the working directory"
        os.chdir("/")
    print(json.dumps({"counts": found, "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]))
