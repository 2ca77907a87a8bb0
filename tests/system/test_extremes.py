"""The smallest images, the most levels, very many images, wide images: that they run, are right, and fit in memory."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from goodness_of_fit import chi_square
from oracle import ENGINES, NATIVE, compare, trace

import pixelfast
from pixelfast.distributions.categorical import Categorical
from pixelfast.ir.program import Program
from pixelfast.lowering import packing
from pixelfast.models import GatedPixelCNN, PixelCNN


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (2, 2)])
def test_small_images(size: tuple[int, int], colours: int) -> None:
    torch.manual_seed(0)
    shape = (colours, *size)
    for model in (
        PixelCNN(shape, levels=3, features=13, blocks=1, norm=True),
        GatedPixelCNN(shape, levels=3, features=6, layers=2),
    ):
        assert compare(trace(model.eval(), shape, Categorical(3)), 3) == 0


def test_65536_levels() -> None:
    torch.manual_seed(0)
    model = PixelCNN((1, 2, 2), levels=1 << 16, features=5, blocks=1).eval()
    compare(trace(model, (1, 2, 2), Categorical(1 << 16)), 3)
    images = pixelfast.sample(model, 3, seed=1)
    assert images.dtype == torch.int32
    assert int(images.max()) > 255


def test_100000_images() -> None:
    """In batches: each with its own noise, and as often as the model says."""
    torch.manual_seed(0)
    sampler = pixelfast.compile(PixelCNN((1, 2, 2), levels=2, features=4, blocks=1).eval(), engine=ENGINES[0])
    n = 100_000 if NATIVE else 10_000
    images = sampler.sample(n, seed=0)
    assert torch.equal(sampler.sample(3, seed=0, first=n - 3), images[-3:])
    every = torch.tensor(list(itertools.product(range(2), repeat=4))).reshape(16, 1, 2, 2)
    expected = sampler.log_prob(every).exp().numpy() * n
    counts = np.bincount(images.reshape(n, 4).long().numpy() @ [8, 4, 2, 1], minlength=16)
    assert expected.sum() == pytest.approx(n)
    assert chi_square(counts, expected / n) < 5.35  # exceeded once in 10,000 seeds


LIMIT = 256  # MB above the weights
MEASURE = """
    import sys
    import numpy as np
    from pixelfast.engines.native import engine as cpu

    def memory(what):
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what)) / 1024

    words, arrays, noise = (np.load(name) for name in sys.argv[1:4])
    arrays = list(arrays.values())
    before = memory("VmRSS")
    engine = cpu.native().Engine(words, arrays)
    values = np.empty(noise.shape, np.int32)
    cpu.sample(engine, noise=noise, given=None, fields=[], values=values, log_prob=None, parameters=None, temperature=1.0,
                  threads=int(sys.argv[4]), on_row=None)
    print(memory("VmHWM") - before, values.min(), values.max())
"""


def wide_program(height: int) -> Program:
    torch.manual_seed(0)
    shape = (1, height, 512)
    model = PixelCNN(shape, levels=256, features=64, blocks=5).eval()
    return pixelfast.compile(model, engine="reference").prepare().program


def storage(program: Program) -> int:
    """Floats in rows and columns, for one image and one row in flight."""
    return sum(b.rows * (b.columns[1] - b.columns[0]) * b.features for b in program.buffers)


def test_buffers_do_not_grow_with_the_height() -> None:
    low, high = wide_program(8), wide_program(16)
    assert storage(low) == storage(high)
    assert storage(low) * 4 < 16e6


@pytest.mark.skipif(not NATIVE or sys.platform != "linux", reason="reads /proc of a run of the native engine")
@pytest.mark.parametrize("threads", [1, 2])
def test_memory_of_a_wide_image(threads: int, tmp_path: Path) -> None:
    """What 512x512 needs beside its weights shows in its first rows, however many run at once."""
    program = wide_program(24)
    words, arrays, _ = packing.pack(program)
    names = [str(tmp_path / name) for name in ("words.npy", "arrays.npz", "noise.npy")]
    np.save(names[0], words)
    np.savez(names[1], *arrays)
    np.save(names[2], np.random.default_rng(0).random((1, 24, 512, 1), np.float32))
    command = [sys.executable, "-c", "\n".join(line[4:] for line in MEASURE.splitlines()), *names, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    grown, least, most = map(float, done.stdout.split())
    assert 0 <= least < most < 256
    assert grown < LIMIT
