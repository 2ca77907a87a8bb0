"""Expressions of maps: operations in float64, groups that engines fuse, random ones."""

from __future__ import annotations

import math

import numpy as np
import torch
from native import HEIGHT, IMAGE, IMAGES, WIDTH
from programs import normal

from pixelfast.ir import program as contract
from pixelfast.ir.program import BINARY, UNARY, Instruction, Leaf, Map, Op, Slot

SPECIAL = [0.0, -0.0, 1e-30, -1e-30, 1e-4, -1e-4, 0.5, -0.5, 88.0, -88.0, 89.5, -104.0, 1e30, -1e30]
EXTREME = [math.inf, -math.inf, math.nan]


def numbers(rng: np.random.Generator, features: int) -> np.ndarray:
    """(N, H, W, features): all sizes of number, from the special ones through dense ones around 0."""
    array = normal(rng, IMAGES, HEIGHT, WIDTH, features, scale=3.0)
    array[1] *= np.exp(rng.uniform(-20, 3, array[1].shape)).astype(np.float32)
    array.reshape(-1)[: len(SPECIAL + EXTREME)] = SPECIAL + EXTREME
    return array


def exact(name: str, *args: np.ndarray) -> np.ndarray:
    """An operation in float64."""
    tensors = [torch.from_numpy(arg).double() for arg in args]
    if name == "logical_not":
        return (tensors[0] == 0).double().numpy()
    if name == "where":
        return torch.where(tensors[0] != 0, *tensors[1:]).numpy()
    return getattr(torch, name)(*tensors).double().numpy()


FUSED: dict[str, tuple[Op, ...]] = {
    "gate": (Op("tanh", (0,)), Op("sigmoid", (1,)), Op("mul", (4, 5))),
    "gate turned round": (Op("sigmoid", (1,)), Op("tanh", (0,)), Op("mul", (4, 5))),
    "gate whose tanh is used twice": (Op("tanh", (0,)), Op("sigmoid", (1,)), Op("mul", (4, 5)), Op("add", (6, 4))),
    "gate of one leaf": (Op("tanh", (0,)), Op("sigmoid", (0,)), Op("mul", (4, 5))),
    "gate of sums": (Op("add", (0, 1)), Op("add", (2, 1)), Op("tanh", (5,)), Op("sigmoid", (4,)), Op("mul", (6, 7))),
    "gate of a sum": (Op("add", (0, 1)), Op("tanh", (4,)), Op("sigmoid", (1,)), Op("mul", (5, 6))),
    "gate of a sum that is used twice": (
        *(Op("add", (0, 1)), Op("add", (2, 1)), Op("tanh", (4,)), Op("sigmoid", (5,)), Op("mul", (6, 7)), Op("add", (8, 4))),
    ),
    "multiply and add": (Op("mul", (0, 1)), Op("add", (1, 4))),
    "sum of two products": (Op("mul", (0, 1)), Op("mul", (1, 1)), Op("add", (4, 5))),
    "add and relu": (Op("add", (0, 1)), Op("relu", (4,))),
    "elu": (Op("gt", (0, 2)), Op("expm1", (0,)), Op("where", (4, 0, 5))),
    "elu as PyTorch derives it": (
        *(Op("gt", (0, 2)), Op("mul", (0, 3)), Op("mul", (0, 3)), Op("expm1", (6,)), Op("mul", (7, 3))),
        Op("where", (4, 5, 8)),
    ),
    "times one": (Op("mul", (0, 3)),),
    "unused result": (Op("exp", (0,)), Op("neg", (1,))),
    "square": (Op("neg", (0,)), Op("mul", (4, 4))),
}


NAMES = ("add", "sub", "mul", "maximum", "minimum", "lt", "where", "tanh", "sigmoid", "relu", "neg")


def random_map(rng: np.random.Generator, features: int) -> Instruction:
    """An expression of up to 12 operations over leaves of every kind, with shared results."""
    leaves: tuple[Leaf, ...] = (
        *(Slot(1, 3, features), Slot(2, 1, features, 0, -2), Slot(1, 2, 1), Slot(2, 5, features, -2, 1)),
        *(contract.FieldSlot(0, 1, features), contract.FieldSlot(1, 4, 1), normal(rng, features), 0.75, -1.0),
    )
    ops: list[Op] = []
    for made in range(rng.integers(1, 13)):
        name = str(rng.choice(NAMES))
        arity = 1 if name in UNARY else 2 if name in BINARY else 3
        first = len(leaves) if made and rng.random() < 0.8 else 0  # mostly results of operations before
        ops.append(Op(name, tuple(int(i) for i in rng.integers(first, len(leaves) + made, arity))))
    return Instruction(Slot(0, 0, features), Map(leaves, tuple(ops)), IMAGE)
