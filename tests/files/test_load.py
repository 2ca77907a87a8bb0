"""Other people's weight files into other people's models: every nesting, every refusal, and what is told about it."""

from __future__ import annotations

import argparse
import pathlib
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from stranger import State, filled, same
from torch import nn

import pixelfast
from pixelfast import CheckpointError, CheckpointWarning
from pixelfast.files import checkpoint

weight_norm = nn.utils.parametrizations.weight_norm


def renamed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def averages(state: State) -> State:
    """Averaged weights, which are kept of parameters only."""
    return {name: tensor + 1 for name, tensor in state.items() if name.endswith(("weight", "bias"))}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.pt"


def lightning(state: State) -> dict[str, Any]:
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    return {
        "epoch": 3, "global_step": 12, "pytorch-lightning_version": "1.4.0", "callbacks": {}, "optimizer_states": [optimizer],
        "state_dict": {**renamed(state, "model."), "loss_weight": torch.ones(4)}, "hyper_parameters": {"lr": 1e-3},
    }  # fmt: skip


NESTINGS: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "ordered": OrderedDict,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "best": 1.25},
    "model": lambda state: {"model": state, "args": argparse.Namespace(lr=1e-3, out=pathlib.Path("runs"))},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}, "param_groups": []}},
    "net": lambda state: {"net": state, "acc": np.float64(91.5), "curve": np.arange(3.0)},
    "module": lambda state: {"model": renamed(state, "module.")},
    "compiled": lambda state: renamed(state, "_orig_mod."),
    "both": lambda state: renamed(state, "module._orig_mod."),
    "in the middle": lambda state: {name.replace("norm.", "norm.module."): tensor for name, tensor in state.items()},
    "lightning": lightning,
    "lightning, net": lambda state: {"state_dict": renamed(state, "net._orig_mod.")},
    "a part of a larger model": lambda state: {**renamed(state, "prior."), "encoder.weight": torch.ones(2, 2)},
    "defaultdict": lambda state: {"model": defaultdict(dict, state), "log": defaultdict(list)},
    "swa": lambda state: {"n_averaged": torch.tensor(4), **renamed(state, "module.")},
    "twice": lambda state: {"model": state, "state_dict": dict(state)},
}


@pytest.mark.parametrize("kind", NESTINGS)
def test_nestings(kind: str, file: Path) -> None:
    net, target = filled(), filled(1)
    torch.save(NESTINGS[kind](net.state_dict()), file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixelfast.load(file, target) is target
    assert same(net, target)
    assert not target.training
    report = checkpoint.match(file, target)
    assert report.complete
    assert set(report.matched) == set(net.state_dict())


@pytest.mark.parametrize("suffix", ["pt", "pth", "ckpt", "bin", "safetensors"])
def test_suffixes(suffix: str, tmp_path: Path) -> None:
    net, file = filled(), tmp_path / f"weights.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(renamed(net.state_dict(), "module."), file)
    assert same(pixelfast.load(str(file), filled(1)), net)


def test_files_of_old_pytorch(file: Path) -> None:
    net = filled()
    torch.save(lightning(net.state_dict()), file, _use_new_zipfile_serialization=False)
    assert same(pixelfast.load(file, filled(1)), net)


def test_models_that_are_wrapped_themselves(file: Path) -> None:
    net, target = filled(), filled(1)
    torch.save(net.state_dict(), file)
    pixelfast.load(file, nn.DataParallel(target))
    assert same(net, target)
    compiled = torch.compile(filled(1))
    assert all(name.startswith("_orig_mod.") for name in compiled.state_dict())
    assert same(pixelfast.load(file, compiled)._orig_mod, net)


def test_the_report_can_be_read(file: Path) -> None:
    net = filled()
    torch.save(lightning(net.state_dict()), file)
    before = filled(1)
    report = checkpoint.match(file, before)
    assert same(before, filled(1)), "match loads nothing"
    assert str(report).splitlines() == [
        "weights.pt into Net: 10 of 10 tensors, under 'state_dict.model.'",
        "elsewhere in the file: state_dict.loss_weight",
    ]


# Averaged weights.


@pytest.mark.parametrize("name", ["ema", "ema_state_dict", "shadow"])
def test_averaged_weights_are_taken_when_asked_for(file: Path, name: str) -> None:
    net = filled()
    torch.save({"model": net.state_dict(), name: renamed(averages(net.state_dict()), "module.")}, file)
    assert same(pixelfast.load(file, filled(1)), net)
    averaged = pixelfast.load(file, filled(1), ema=True)
    assert torch.equal(averaged.out.weight, net.out.weight + 1)
    assert torch.equal(averaged.norm.running_var, net.norm.running_var), "statistics stand with the weights"
    assert f"also under '{name}.' (averaged: ema=True)" in str(checkpoint.match(file, net))
    assert checkpoint.match(file, net, ema=True).averaged


def test_averaged_weights_beside_the_plain_ones(file: Path) -> None:
    """As ema_pytorch and Lightning modules keep them."""
    net = filled()
    state = net.state_dict()
    torch.save({**renamed(state, "online_model."), **renamed(averages(state), "ema_model."), "step": torch.tensor(3)}, file)
    assert same(pixelfast.load(file, filled(1)), net)
    assert torch.equal(pixelfast.load(file, filled(1), ema=True).first.bias, net.first.bias + 1)


def test_averaged_weights_beside_those_in_training_under_one_name(file: Path) -> None:
    """As a training script keeps the state of ema_pytorch: nobody averaged what stands under online_model."""
    net = filled()
    both = {**renamed(net.state_dict(), "online_model."), **renamed(averages(net.state_dict()), "ema_model.")}
    torch.save({"model": net.state_dict(), "ema": both}, file)
    assert same(pixelfast.load(file, filled(1)), net)
    assert torch.equal(pixelfast.load(file, filled(1), ema=True).first.bias, net.first.bias + 1)
    torch.save({"ema": both}, file)
    assert same(pixelfast.load(file, filled(1)), net)


def test_averaged_weights_alone_are_taken_with_a_warning(file: Path) -> None:
    net = filled()
    torch.save({"ema": net.state_dict()}, file)
    with pytest.warns(CheckpointWarning, match=r"holds averaged weights only \(EMA, under 'ema\.'\)"):
        assert same(pixelfast.load(file, filled(1)), net)


def test_averaged_weights_that_are_not_there(file: Path) -> None:
    torch.save(filled().state_dict(), file)
    with pytest.raises(CheckpointError, match=r"holds no averaged weights of this model .*leave ema=True out"):
        pixelfast.load(file, filled(), ema=True)


def test_a_model_whose_own_names_say_ema(file: Path) -> None:
    net = nn.ModuleDict({"ema": nn.Linear(2, 2), "online": nn.Linear(2, 2)})
    torch.save({"state_dict": net.state_dict()}, file)
    again = nn.ModuleDict({"ema": nn.Linear(2, 2), "online": nn.Linear(2, 2)})
    assert same(pixelfast.load(file, again), net)


# Several sets of weights.


def test_a_file_that_leaves_a_choice(file: Path) -> None:
    first, second = filled(), filled(1)
    torch.save({"top": first.state_dict(), "bottom": second.state_dict()}, file)
    with pytest.raises(CheckpointError, match=r"several sets of weights .* under 'top\.', 'bottom\.': .*prefix='top\.'"):
        pixelfast.load(file, filled(2))
    assert same(pixelfast.load(file, filled(2), prefix="bottom."), second)
    assert same(pixelfast.load(file, filled(2), prefix="top"), first)
    with pytest.raises(CheckpointError, match=r"nothing in .* stands under 'middle': its names are top\."):
        pixelfast.load(file, filled(2), prefix="middle")
    torch.save({"best": second.state_dict(), "state_dict": first.state_dict()}, file)
    assert same(pixelfast.load(file, filled(2)), first)


# weight_norm.


def normed(kind: str, dim: int | None) -> nn.Module:
    norm = weight_norm if kind == "new" else nn.utils.weight_norm
    return nn.Sequential(norm(nn.Conv2d(2, 3, 3), dim=dim), nn.ReLU(), norm(nn.Linear(3, 4), dim=dim))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("dim", [0, None])
@pytest.mark.parametrize(("stored", "wanted"), [("old", "new"), ("new", "old"), ("old", "old"), ("new", "new")])
def test_weight_norm_of_both_kinds(file: Path, stored: str, wanted: str, dim: int | None) -> None:
    net, target = normed(stored, dim), normed(wanted, dim)
    torch.save({"state_dict": renamed(net.state_dict(), "module.")}, file)
    pixelfast.load(file, target)
    x = torch.randn(1, 2, 3, 3)
    expected, found = net[0](x), target[0](x)
    assert torch.equal(expected, found)
    assert torch.equal(net[2](expected.flatten(1)), target[2](found.flatten(1)))


def test_weight_norm_at_the_top(file: Path) -> None:
    net, target = weight_norm(nn.Linear(2, 3)), weight_norm(nn.Linear(2, 3))
    torch.save({"bias": net.bias, "weight_g": net.parametrizations.weight.original0,
                "weight_v": net.parametrizations.weight.original1}, file)  # fmt: skip
    assert same(pixelfast.load(file, target), net)


# What may differ, and what may not.


def test_masks_and_counters_may_be_missing_or_left_over(file: Path) -> None:
    net, target = filled(), filled(1)
    state = net.state_dict()
    del state["first.mask"], state["norm.num_batches_tracked"]
    state |= {"out.mask": torch.ones(4, 6, 1, 1), "steps": torch.tensor(3)}
    torch.save(state, file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixelfast.load(file, target)
    assert torch.equal(target.first.weight, net.first.weight)
    assert int(target.norm.num_batches_tracked) == 8
    report = checkpoint.match(file, target)
    assert report.kept == ("first.mask", "norm.num_batches_tracked")
    assert report.ignored == ("out.mask", "steps")
    assert "no weights, the model keeps its own: first.mask, norm.num_batches_tracked" in str(report)
    assert "no weights, left out: out.mask, steps" in str(report)


def test_what_only_sounds_like_a_mask_is_a_weight(file: Path) -> None:
    state = filled().state_dict()
    torch.save({**state, "mask": torch.rand(3), "mask_token": torch.ones(3)}, file)
    assert checkpoint.match(file, filled()).unexpected == ("mask", "mask_token")


def test_missing_and_unexpected_weights(file: Path) -> None:
    net, target = filled(), filled(1)
    state = net.state_dict()
    state["outt.weight"] = state.pop("out.weight")
    del state["norm.running_mean"]
    torch.save(state, file)
    with pytest.raises(CheckpointError) as caught:
        pixelfast.load(file, target)
    assert str(caught.value).splitlines()[1:] == [
        "  missing in the file: norm.running_mean",
        "  missing in the file: out.weight (nearest: outt.weight, (4, 6, 1, 1))",
        "  not in the model: outt.weight (nearest: out.weight, (4, 6, 1, 1))",
        "(2 missing, 1 unexpected in all)",
        "If that is right so, pass strict=False (--no-strict): the model then keeps its own tensors where the file has none",
    ]
    assert same(target, filled(1)), "nothing is loaded in part by mistake"
    with pytest.warns(CheckpointWarning) as warned:
        pixelfast.load(file, target, strict=False)
    assert [str(warning.message) for warning in warned] == [
        "weights.pt into Net: missing in the file, so the model keeps its own: norm.running_mean, out.weight",
        "weights.pt into Net: not in the model, so left out: outt.weight",
    ]
    assert warned[0].filename == __file__
    assert torch.equal(target.first.weight, net.first.weight)
    assert torch.equal(target.out.weight, filled(1).out.weight)


@pytest.mark.parametrize("strict", [True, False])
def test_nothing_that_fits(file: Path, strict: bool) -> None:
    torch.save({"first.weigth": torch.ones(6, 1, 3, 3), "decoder": torch.ones(2)}, file)
    with pytest.raises(CheckpointError, match=r"nothing in .* fits Net:") as caught:
        pixelfast.load(file, filled(), strict=strict)
    assert "missing in the file: first.weight (nearest: first.weigth, (6, 1, 3, 3))" in str(caught.value)
    assert "not in the model: decoder\n" in str(caught.value)


@pytest.mark.parametrize("strict", [True, False])
def test_other_shapes(file: Path, strict: bool) -> None:
    torch.save({"model": filled(features=8).state_dict()}, file)
    target = filled()
    with pytest.raises(CheckpointError, match=r"8 tensors have other shapes .*built with other arguments") as caught:
        pixelfast.load(file, target, strict=strict)
    assert "  first.weight: file (8, 1, 3, 3), model (6, 1, 3, 3)" in str(caught.value)
    assert same(target, filled())
    assert "other shape: out.weight: file (4, 8, 1, 1), model (4, 6, 1, 1)" in str(checkpoint.match(file, target))


def test_tied_weights_need_one_name_only(file: Path) -> None:
    def tied() -> nn.Module:
        net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        net[1].weight = net[0].weight
        return net

    net, target = tied(), tied()
    state = net.state_dict()
    del state["1.weight"]
    torch.save(state, file)
    assert same(pixelfast.load(file, target), net)


def test_models_without_memory(file: Path) -> None:
    torch.save(nn.Linear(3, 4).state_dict(), file)
    with pytest.raises(CheckpointError, match=r"weight of LazyLinear has no memory yet, it is lazy: .* run it once"):
        pixelfast.load(file, nn.LazyLinear(4))
    with pytest.raises(CheckpointError, match="weight of Linear has no memory yet, it is on the meta device"):
        pixelfast.load(file, nn.Linear(3, 4, device="meta"))


def test_weights_keep_the_types_and_gradients_of_the_model(file: Path) -> None:
    net = nn.Linear(3, 4)
    torch.save({name: tensor.half() for name, tensor in net.state_dict().items()}, file)
    target = nn.Linear(3, 4)
    before = target.weight
    pixelfast.load(file, target)
    assert target.weight is before
    assert before.requires_grad
    assert before.dtype == torch.float32
    assert torch.equal(before, net.weight.half().float())
