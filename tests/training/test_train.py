"""Training: it learns, bits/dim are what they say, and a killed run goes on as if nothing had happened."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pixelfast.distributions.categorical import Categorical
from pixelfast.errors import CheckpointError, InvalidInput, NumericalError
from pixelfast.files import checkpoint
from pixelfast.models import GatedPixelCNN
from pixelfast.training.images import augment
from pixelfast.training.options import TrainOptions
from pixelfast.training.train import Epoch, bits_per_dim, learning_rate, train

OPTIONS = TrainOptions(epochs=3, batch_size=8, lr=3e-3, warmup=2, shift=1, flip=True, save_every=2)


def stripes(count: int = 44) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 7, 5) of two levels: rows (label 0) or columns (label 1) in alternation, with a random phase."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (count,), generator=generator)
    phase = torch.randint(2, (count, 1, 1), generator=generator)
    row, col = torch.arange(7).view(1, 7, 1), torch.arange(5).view(1, 1, 5)
    return ((torch.where(labels.view(-1, 1, 1) == 0, row, col) + phase) % 2).unsqueeze(1), labels


def small(**arguments: object) -> GatedPixelCNN:
    torch.manual_seed(1)
    return GatedPixelCNN((1, 7, 5), levels=2, features=8, layers=1, classes=2, **arguments)


class Known(nn.Module):
    """The same logits (K,) for every sub-pixel; with dropout of them on demand."""

    def __init__(self, logits: Tensor, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape, self.head = (1, 2, 3), Categorical(len(logits))
        self.logits = nn.Parameter(logits)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.dropout(self.logits).view(1, -1, 1, 1, 1)
        return flat.expand(x.shape[0], -1, *x.shape[1:])


def test_bits_per_dim_by_hand() -> None:
    model = Known(torch.tensor([0.5, 0.25, 0.25]).log())
    images = torch.tensor([[0, 0, 0], [1, 2, 0]]).view(1, 1, 2, 3).repeat(5, 1, 1, 1)
    # Four zeros cost 1 bit each, the 1 and the 2 cost 2 bits: 8 bits for 6 sub-pixels.
    assert bits_per_dim(model, images, batch_size=2) == pytest.approx(8 / 6, abs=1e-6)
    assert bits_per_dim(Known(torch.zeros(8)), images) == pytest.approx(3.0, abs=1e-6)


def test_bits_per_dim_leaves_the_model_as_it_was() -> None:
    model = Known(torch.zeros(3), dropout=0.9).train()
    bits_per_dim(model, torch.zeros(1, 1, 2, 3, dtype=torch.long))
    assert model.training
    assert model.logits.grad is None


def test_training_learns_images_and_labels() -> None:
    images, labels = stripes()
    model = small()
    before = bits_per_dim(model, images[32:], labels[32:])
    options = TrainOptions(epochs=60, batch_size=8, lr=1e-2, warmup=5, ema=0.9)
    history = train(model, images[:32], labels[:32], test=(images[32:], labels[32:]), options=options)
    after = bits_per_dim(model, images[32:], labels[32:])
    assert before > 0.8
    assert after < 0.15  # 1 bit of phase for 35 pixels would be 0.03
    assert history[-1].test_bits == pytest.approx(after)
    # Later pixels betray the pattern, the second one does not: the label must tell whether it equals the first.
    start = images[32:, :, :1, :2]
    right, wrong = bits_per_dim(model, start, labels[32:]), bits_per_dim(model, start, 1 - labels[32:])
    assert right < 0.8 < 1.0 < wrong
    assert not model.training


@pytest.mark.parametrize("bfloat16", [False, True])
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, bfloat16: bool) -> None:
    images, labels = stripes()
    options = replace(OPTIONS, bfloat16=bfloat16)
    whole = small()
    expected = train(whole, images, labels, test=(images, labels), options=options, folder=tmp_path / "whole")

    class Killed(BaseException):
        pass

    def run_until(step: int) -> list[Epoch]:
        """A new process: new model, killed when it asks for the loss of that step."""
        model, calls = small(), 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += model.training
            if calls > step:
                raise Killed

        model.register_forward_pre_hook(count)
        return train(model, images, labels, test=(images, labels), options=options, folder=tmp_path / "cut")

    for step in (3, 5, 2):  # in the first epoch after a state, across the end of an epoch, and again
        with pytest.raises(Killed):
            run_until(step)
    reports = run_until(10**6)
    assert [(r.epoch, r.train_bits, r.test_bits) for r in reports] == [(r.epoch, r.train_bits, r.test_bits) for r in expected]
    cut = checkpoint.load(tmp_path / "cut")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(cut.state_dict()[name], tensor), name


def test_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    images, labels = stripes(16)
    first = train(small(), images, labels, options=OPTIONS, folder=tmp_path)
    model = small()
    assert train(model, images, labels, options=OPTIONS, folder=tmp_path)[-1].seconds == first[-1].seconds
    assert torch.equal(model.hidden.weight, checkpoint.load(tmp_path).hidden.weight)


def test_folder_holds_averaged_weights_and_facts(tmp_path: Path) -> None:
    images, labels = stripes(16)
    model = small()
    seen: list[Epoch] = []
    held, extra = (images, labels), {"data": "stripes"}
    train(model, images, labels, test=held, options=OPTIONS, folder=tmp_path, extra=extra, on_epoch=seen.append)
    assert [report.epoch for report in seen] == [1, 2, 3]
    config = checkpoint.read_config(tmp_path)
    assert config["data"] == "stripes"
    assert config["epochs"] == 3
    assert config["bits_per_dim"] == pytest.approx(bits_per_dim(checkpoint.load(tmp_path), images, labels), abs=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors", "training.pt"]


def test_other_options_data_or_model_are_not_continued(tmp_path: Path) -> None:
    images, labels = stripes(16)
    train(small(), images, labels, options=OPTIONS, folder=tmp_path)
    for model, data, options, what in (
        (small(), images, replace(OPTIONS, lr=1e-4), "its options is"),
        (small(), 1 - images, OPTIONS, "its data is"),
        (small(kernel=5), images, OPTIONS, "its model is"),
    ):
        with pytest.raises(CheckpointError, match=what):
            train(model, data, labels, options=options, folder=tmp_path)
    assert len(train(small(), images, labels, options=replace(OPTIONS, epochs=1), folder=tmp_path, resume=False)) == 1


@pytest.mark.parametrize("content", [b"", b"no state", None])
def test_damaged_state(tmp_path: Path, content: bytes | None) -> None:
    images, labels = stripes(16)
    train(small(), images, labels, options=OPTIONS, folder=tmp_path)
    state = tmp_path / "training.pt"
    state.write_bytes(state.read_bytes()[:1000] if content is None else content)
    with pytest.raises(CheckpointError, match="damaged or no training state"):
        train(small(), images, labels, options=OPTIONS, folder=tmp_path)


def test_dropout_is_keyed_by_the_seed_and_leaves_the_global_generator() -> None:
    images = torch.randint(3, (8, 1, 2, 3), generator=torch.Generator().manual_seed(0))
    options = TrainOptions(epochs=2, batch_size=4)
    torch.manual_seed(5)
    untouched = torch.get_rng_state()
    runs = [train(Known(torch.zeros(3), dropout=0.5), images, options=replace(options, seed=s)) for s in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), untouched)
    bits = [run[-1].train_bits for run in runs]
    assert bits[0] == bits[1] != bits[2]


def test_learning_rate_warms_up_and_falls() -> None:
    options = TrainOptions(lr=1.0, warmup=10)
    rates = [learning_rate(step, 1000, options) for step in range(1000)]
    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert max(rates) == 1.0
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert rates[505] == pytest.approx(0.5, abs=0.01)
    assert 0 < rates[-1] < 1e-5


def test_gradient_is_clipped() -> None:
    """With AdamW the size of a gradient cancels, its ratio to the previous one does not: watch the norm itself."""
    norms: list[float] = []
    model = Known(torch.tensor([50.0, 0.0, 0.0]))
    images = torch.ones(8, 1, 2, 3, dtype=torch.long)
    step = torch.optim.AdamW.step

    def spy(optimiser: torch.optim.AdamW) -> None:
        norms.append(float(model.logits.grad.norm()))  # type: ignore[union-attr]
        step(optimiser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        train(model, images, options=TrainOptions(epochs=1, batch_size=4, clip=0.25))
        train(model, images, options=TrainOptions(epochs=1, batch_size=4, clip=0.0))
    assert norms[:2] == pytest.approx([0.25, 0.25], rel=1e-4)
    assert min(norms[2:]) > 1


def test_augmentation_moves_image_and_map_alike() -> None:
    images = torch.arange(35).view(1, 1, 7, 5).repeat(50, 1, 1, 1)
    options = TrainOptions(shift=2, flip=True)
    moved, maps = augment(images, images.float().repeat(1, 2, 1, 1), options, np.random.default_rng(0))
    assert maps is not None
    assert torch.equal(maps[:, 0], moved[:, 0].float())
    seen = set()
    for image in moved[:, 0]:
        centre = int(image[3, 2])
        mirrored = bool(image[3, 3] < image[3, 1])
        seen.add((centre // 5 - 3, mirrored))
        assert abs(centre // 5 - 3) <= 2
        assert abs(centre % 5 - 2) <= 2
    assert {down for down, _ in seen} == {-2, -1, 0, 1, 2}
    assert {mirrored for _, mirrored in seen} == {False, True}
    still, _ = augment(images, None, TrainOptions(), np.random.default_rng(0))
    assert torch.equal(still, images)


def test_non_finite_loss_is_named() -> None:
    images = torch.zeros(4, 1, 2, 3, dtype=torch.long)
    with pytest.raises(NumericalError, match="the loss is nan in epoch 1, step 1"):
        train(Known(torch.tensor([math.nan, 0.0])), images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs must be an integer of at least 1"),
        ({"batch_size": 2.0}, "batch_size must be an integer"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lr": math.nan}, "lr must be a number"),
        ({"ema": 1.0}, "ema must be a number of at least 0 and below 1"),
        ({"clip": -1.0}, "clip must be"),
    ],
)
def test_wrong_options(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        TrainOptions(**arguments)


def test_wrong_data(tmp_path: Path) -> None:
    images, labels = stripes(16)
    for data, classes, message in (
        (images.float(), labels, "must be integers of shape"),
        (images.repeat(1, 3, 1, 1), labels, r"\(N, 1, H, W\)"),
        (images + 1, labels, "the images hold 1 .. 2"),
        (images, labels[:3], "16 images came with 3 labels"),
        (images, labels[:, None], r"labels must be integers \(N,\), got torch.int64 of shape \(16, 1\)"),
        (images, labels.float(), "labels must be integers"),
        (images, labels - 1, "the labels hold -1 .."),
        (images, labels + 10, "0 .. 1, but the labels hold 10 .."),
    ):
        with pytest.raises(InvalidInput, match=message):
            train(small(), data, classes)
    with pytest.raises(InvalidInput, match="test= takes"):
        train(small(), images, labels, test=())
    with pytest.raises(InvalidInput, match="Known is none"):
        train(Known(torch.zeros(2)), images, folder=tmp_path)
