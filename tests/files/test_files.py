"""Files that are not what they should be: bombs, pipes, devices, damaged configurations, numbers that would become others."""

from __future__ import annotations

import gzip
import json
import os
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import pixelfast
from pixelfast.cli.conditions import read_conditions
from pixelfast.data import dataset as data
from pixelfast.errors import CheckpointError, InvalidInput
from pixelfast.files import checkpoint, weight_files
from pixelfast.files.access import MAX_BYTES
from pixelfast.files.array_files import read_npy
from pixelfast.files.weight_files import read_weights
from pixelfast.models import GatedPixelCNN
from pixelfast.pictures import read_given

GREY = np.random.default_rng(0).integers(0, 256, (4, 7, 5)).astype(np.uint8)
HUGE = 10**15
LIMIT = Image.MAX_IMAGE_PIXELS


def npy(shape: tuple[int, ...], content: bytes = b"", kind: str = "|u1") -> bytes:
    """An .npy file that says more than it holds."""
    header = str({"descr": kind, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def zeros_zipped(size: int) -> bytes:
    """A deflated stream of zeros; 2 MB for 2 GB, made of a part that repeats."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + body * (size // 2**20 - 1) + zlib.compressobj(9, zlib.DEFLATED, -15).flush()


def zip_bomb(path: Path, name: str, **arrays: np.ndarray) -> None:
    """An archive with an array that says truly that it has 3 GB, beside others."""
    np.savez_compressed(path, **arrays)
    size, packed = 3 * 2**30, zeros_zipped(2**24)
    with zipfile.ZipFile(path, "a") as file:
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        file.writestr(info, b"")
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02")
    struct.pack_into("<II", content, at + 20, len(packed), size)
    path.write_bytes(content)


def write_gz(path: Path, head: bytes, size: int) -> None:
    """A gzipped file of `head` and so many zeros."""
    packed = gzip.compress(head)[:-8]
    path.write_bytes(packed[:10] + b"\0" + struct.pack("<HH", len(head), 0xFFFF ^ len(head)) + head + zeros_zipped(size))


def png(path: Path, width: int, height: int) -> None:
    """A picture that says how large it is, and holds nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


def test_what_says_that_it_is_huge_is_not_opened(tmp_path: Path) -> None:
    """Sizes are checked before anything is read; the message has the size, the limit and the option."""
    (tmp_path / "a.npy").write_bytes(npy((HUGE, 7, 5)))
    with pytest.raises(InvalidInput, match=rf"a\.npy: its array should hold .* {35 * HUGE:,} bytes, but has 0"):
        data.load(tmp_path / "a.npy")
    idx = tmp_path / "images-idx3-ubyte.gz"
    write_gz(idx, b"\0\0\x08\x03" + struct.pack(">III", 2**16, 2**10, 2**10), 2**21)
    with pytest.raises(
        InvalidInput, match=rf"idx3-ubyte\.gz: it opens to {2**36:,} bytes, and the limit is {MAX_BYTES:,}.*max_by"
    ):
        data.load(idx)
    zip_bomb(tmp_path / "b.npz", "X_train.npy")
    with pytest.raises(InvalidInput, match=rf"b\.npz: 'X_train' opens to {3 * 2**30:,} bytes, and the limit is .*--max-bytes"):
        data.load(tmp_path / "b.npz")
    torch.save({"w": torch.zeros(3)}, tmp_path / "c.pt")
    zip_bomb(tmp_path / "c.npz", "archive/data/0")
    (tmp_path / "c.npz").rename(tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=rf"c\.pt: it opens to {3 * 2**30:,} bytes"):
        read_weights(tmp_path / "c.pt")
    header = json.dumps({"w": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]}}).encode()
    (tmp_path / "d.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match="safetensors file"):
        read_weights(tmp_path / "d.safetensors")


def test_more_than_a_file_says_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 GB of zeros behind the images of an idx file: no more than one byte of them is unpacked."""
    idx = tmp_path / "images-idx3-ubyte.gz"
    write_gz(idx, b"\0\0\x08\x03" + struct.pack(">III", *GREY.shape) + GREY.tobytes(), 2**31)
    assert idx.stat().st_size < 3 * 2**20
    with pytest.raises(InvalidInput, match=r"should hold \(4, 7, 5\) numbers of uint8, but has more"):
        data.read_idx(idx)


def test_only_what_is_asked_for_is_opened(tmp_path: Path) -> None:
    zip_bomb(tmp_path / "a.npz", "other.npy", images=GREY)
    assert len(data.load(tmp_path / "a.npz", 256, source_levels=256, test_fraction=0).images) == 4


def test_pictures_are_measured_before_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    png(tmp_path / "a" / "a.png", 10_000, 10_000)
    with pytest.raises(InvalidInput, match=r"a\.png: a picture of 10000 x 10000 pixels opens to 2,400,000,000 bytes, and the"):
        data.load(tmp_path / "a")
    (tmp_path / "many").mkdir()
    for index in range(80):
        png(tmp_path / "many" / f"{index}.png", 3000, 3000)
    with pytest.raises(InvalidInput, match=r"0\.png: 80 pictures of 3000 x 3000 pixels opens to 2,160,000,000 bytes, and the"):
        data.load(tmp_path / "many")
    png(tmp_path / "b.png", 100_000, 100_000)
    with pytest.raises(
        InvalidInput, match=r"b\.png: a picture of 100000 x 100000 pixels opens to 240,000,000,000 bytes, and the"
    ):
        read_given(tmp_path / "b.png", (1, 7, 5), 256)
    png(tmp_path / "c.png", 15_000, 12_000)  # Pillow alone would refuse so many
    with pytest.raises(InvalidInput, match=r"c\.png is truncated or no readable picture"):
        read_given(tmp_path / "c.png", (1, 7, 5), 256, max_bytes=10**10)
    assert Image.MAX_IMAGE_PIXELS == LIMIT


def test_an_option_raises_the_limit(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.repeat(GREY, 30, 0))
    np.savez_compressed(tmp_path / "b.npz", images=np.zeros((120, 70, 50), np.uint8))
    assert len(data.load(tmp_path / "a.npz", max_bytes=100, source_levels=256).images), "it takes as much on the disk"
    with pytest.raises(InvalidInput, match=r"opens to 420,128 bytes, and the limit is 100,000"):
        data.load(tmp_path / "b.npz", max_bytes=100_000, source_levels=256)
    assert len(data.load(tmp_path / "b.npz", max_bytes=500_000, source_levels=256).images) == 108
    for wrong in (0, -1, 1.5, True, "1G"):
        with pytest.raises(InvalidInput, match="max_bytes must be an integer of at least 1"):
            data.load(tmp_path / "b.npz", max_bytes=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [
        {"features": 10**9},
        {"layers": 10**6},
        {"levels": 10**9},
        {"levels": 10**18},
        {"shape": [1, 10**6, 28]},
        {"shape": [10**7, 7, 5]},
        {"classes": 10**9},
        {"kernel": 10**9 + 1},
        {"features": "many"},
        {"shape": 5},
        {"shape": None},
        {"features": 1e300},
    ],
)
def test_a_configuration_that_no_machine_holds(tmp_path: Path, arguments: dict[str, Any]) -> None:
    checkpoint.save(GatedPixelCNN((1, 7, 5), levels=3, features=4, layers=1), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["arguments"].update(arguments)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json: the arguments do not fit the architecture 'gated'"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[" * 100_000, "RecursionError"),
        ("[]", "must hold a JSON object, found list"),
        ('{"architecture": "gatd", "arguments": {}}', "did you mean 'gated'"),
        ('{"architecture": [], "arguments": {}}', r"names the architecture \[\]"),
        ('{"architecture": "gated", "arguments": {}, "levels": 7}', "says 7 levels, and its arguments 256"),
        ('{"architecture": "gated", "arguments": {}, "encode": [1e39, 0]}', "no numbers, or infinite"),
        (b"\xff\xfe", "truncated or no readable JSON"),
        (b" " * (2**24 + 1), "has 16,777,217 bytes"),
    ],
)
def test_damaged_configurations(tmp_path: Path, config: str | bytes, message: str) -> None:
    checkpoint.save(GatedPixelCNN((1, 7, 5), levels=3, features=4, layers=1), tmp_path)
    (tmp_path / "config.json").write_bytes(config if isinstance(config, bytes) else config.encode())
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(tmp_path)


def strange_paths(folder: Path) -> list[str]:
    """Paths that lead to no regular file."""
    os.mkfifo(folder / "pipe.npz")
    (folder / "loop.npz").symlink_to(folder / "loop.npz")
    (folder / "gone.npz").symlink_to(folder / "nowhere")
    (folder / "folder.npz").mkdir()
    for index in range(2000):
        (folder / "folder.npz" / f"{index}.txt").touch()
    (folder / "file").touch()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("socket.npz")
    listening.close()
    names = ["pipe.npz", "loop.npz", "gone.npz", "folder.npz", "socket.npz", "file/a.npz", "nul\0.npz", "x" * 300 + ".npz", ""]
    return ["/dev/zero", "/dev/null", "/dev/stdin", *names]


READERS: dict[str, Callable[[str], object]] = {
    "data": data.load,
    "idx": data.read_idx,
    "npy": read_npy,
    "cond": read_conditions,
    "given": lambda path: read_given(path, (1, 7, 5), 256),
    "load": pixelfast.load,
    "weights": lambda path: pixelfast.load(path, nn.Conv2d(1, 2, 1)),
    "match": lambda path: checkpoint.match(path, nn.Conv2d(1, 2, 1)),
    "config": checkpoint.read_config,
    "images": lambda path: data.read_images(path, (1, 7, 5)),
}


def test_pipes_devices_loops_and_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them may be waited for, or read without end."""
    monkeypatch.chdir(tmp_path)
    for path in strange_paths(tmp_path):
        for name, read in READERS.items():
            with pytest.raises((InvalidInput, CheckpointError)) as caught:
                read(path)
            assert str(caught.value), name
            with pytest.raises((InvalidInput, CheckpointError)):
                read(Path(path))  # type: ignore[arg-type]
    for read in READERS.values():
        for wrong in (None, 3, b"bytes", ["list"]):
            with pytest.raises((InvalidInput, CheckpointError)):
                read(wrong)  # type: ignore[arg-type]


def test_a_folder_of_pictures_with_pipes_and_devices(tmp_path: Path) -> None:
    for index in range(3):
        Image.fromarray(GREY[index]).save(tmp_path / f"{index}.png")
    (tmp_path / "3.png").symlink_to("/dev/zero")
    with pytest.raises(InvalidInput, match=r"3\.png is no readable picture: it is a device"):
        data.load(tmp_path)


def test_no_program_is_run_for_a_picture(tmp_path: Path) -> None:
    """Pillow hands EPS to Ghostscript, whatever the file is called."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 7\n%%EndComments\nshowpage\n")
    with pytest.raises(InvalidInput, match=r"a\.png is no readable picture: it is damaged, or none of PNG, JPEG"):
        read_given(tmp_path / "a.png", (1, 7, 5), 256)


def test_arrays_of_objects_and_of_other_kinds_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "b.npy", np.zeros(3, [("x", "u1")]))
    for name in "ab":
        with pytest.raises(InvalidInput, match="numbers are needed"):
            read_npy(tmp_path / f"{name}.npy")
    for content in (
        npy((-1,), b"x"),
        npy((3, 10**30)),
        npy((0, 10**30)),
        npy((2**40,), b"", "<U0"),
        b"",
        b"\x93NUMPY",
        npy((9,)),
    ):
        (tmp_path / "c.npy").write_bytes(content)
        with pytest.raises(InvalidInput, match=r"c\.npy"):
            read_npy(tmp_path / "c.npy")


def test_tensors_that_repeat_few_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One number, and a shape that repeats it 10**12 times; dictionaries that hold each other 40**8 times."""
    torch.save({"w": torch.zeros(1).expand(10**12)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt: w opens to 4,000,000,000,000 bytes"):
        read_weights(tmp_path / "a.pt")
    held: dict[str, Any] = {"w": torch.zeros(1)}
    for _ in range(8):
        held = {str(index): held for index in range(40)}
    torch.save(held, tmp_path / "b.pt")
    monkeypatch.setattr(weight_files, "NAMES", 1000)
    with pytest.raises(CheckpointError, match=r"b\.pt holds over 1,000 names: its dictionaries hold each other"):
        read_weights(tmp_path / "b.pt")
    torch.save({"w": torch.eye(3).to_sparse()}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="a plain tensor is needed"):
        read_weights(tmp_path / "c.pt")
    net = nn.Linear(2, 2)
    for wrong in (torch.ones(2, 2, dtype=torch.complex64), torch.ones(2, 2, dtype=torch.int8)):
        torch.save({"weight": wrong, "bias": torch.zeros(2)}, tmp_path / "d.pt")
        with pytest.raises(CheckpointError, match="store the weights as floats"):
            pixelfast.load(tmp_path / "d.pt", net)


def test_models_that_do_not_take_weights(tmp_path: Path) -> None:
    class Reads(nn.Linear):
        def state_dict(self, *args: Any, **options: Any) -> Any:
            raise LookupError("mine")

    class Writes(nn.Linear):
        def load_state_dict(self, *args: Any, **options: Any) -> Any:
            raise LookupError("mine")

    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"state_dict\(\) of Reads raises LookupError: mine \(.*test_files\.py, line"):
        pixelfast.load(tmp_path / "a.pt", Reads(2, 2))
    with pytest.raises(CheckpointError, match=r"Writes does not take the weights of .*a\.pt: LookupError: mine \(.*test_files"):
        pixelfast.load(tmp_path / "a.pt", Writes(2, 2))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("labels", np.full(4, 2**63, np.uint64), "labels hold 0 .. 9223372036854775808, but must be"),
        ("labels", np.full(4, 2**40), "but must be 0 .. 2147483647"),
        ("maps", np.full((4, 2, 2), 2**63, np.uint64), "maps are uint64"),
        ("maps", np.full((4, 2, 2), "one"), "maps are <U3"),
        ("maps", np.full((4, 2, 2), 1j), "maps are complex128"),
        ("maps", np.full((4, 2, 2), 1e300), "maps hold NaN, infinity or numbers beyond float32"),
    ],
)
def test_numbers_that_would_become_others(tmp_path: Path, name: str, array: np.ndarray, message: str) -> None:
    """Cast to int64 or float32, they would wrap around, lose a part or become infinite, and nobody would know."""
    np.savez(tmp_path / "a.npz", images=GREY, levels=256, **{name: array})
    with pytest.raises(InvalidInput, match=message):
        data.load(tmp_path / "a.npz")
