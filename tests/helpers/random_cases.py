"""A random case: a model, calls that sample from it, and what is changed between two calls of the front door."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any, TypeVar

import numpy as np
import torch
from random_configs import CONDITIONS, Block, Config, Window, random_config
from random_models import RandomModel, conditions_by_name
from torch import Tensor, nn

T = TypeVar("T")

FORMS = ("each", "each", "each", "one", "array", "number", "scalar")
"""Forms of conditions: an entry for each image, one for all, NumPy arrays, Python numbers, tensors without axes."""
KNOWN = ("nothing", "nothing", "rows", "scattered")


@dataclass(frozen=True)
class Call:
    """What is passed to `sample`. `known` pixels are given; `form` says how conditions are written."""

    images: int
    seed: int
    known: str = "nothing"
    temperature: float = 1.0
    first: int = 0
    batch_size: int | None = None
    threads: int | None = None
    form: str = "each"

    def conditions(self, config: Config) -> tuple[Any, dict[str, Tensor]]:
        """As passed, and by name with an entry for each image."""
        alone = {"one": ("label", "vector", "map", "scale"), "number": ("label", "scale"), "scalar": ("label", "scale")}
        each = conditions_by_name(config, self.images, self.seed % 1000)
        each = {
            name: value[:1].expand_as(value) if name in alone.get(self.form, ()) else value for name, value in each.items()
        }  # fmt: skip
        written: dict[str, Any] = {name: self._written(name, value) for name, value in each.items()}
        if config.keyword and written:
            return written, each
        return (tuple(written.values()) if len(written) != 1 else next(iter(written.values()))) if written else None, each

    def _written(self, name: str, value: Tensor) -> Any:
        if self.form == "one":
            return value[:1]
        if self.form == "array":
            return value.numpy()
        if name in ("label", "scale") and self.form in ("number", "scalar"):
            return value[0].item() if self.form == "number" else value[0]
        return value

    def given(self, config: Config) -> Tensor | None:
        """Known values (N, C, H, W): the upper rows, or two thirds of all sub-pixels and one whole row; -1 elsewhere."""
        if self.known == "nothing":
            return None
        rng = np.random.default_rng(self.seed)
        values = rng.integers(config.levels, size=(self.images, *config.shape)).astype(np.int32)
        height = config.shape[1]
        if self.known == "rows":
            values[:, :, (height + 1) // 2 :] = -1
        else:
            hidden = rng.random(values.shape) < 1 / 3
            hidden[:, :, height // 2] = False
            values[hidden] = -1
        return torch.from_numpy(values)


@dataclass(frozen=True)
class Case:
    """`door` is "compile", or the change after which `pixelfast.sample` must no longer draw from the model before."""

    config: Config
    calls: tuple[Call, ...]
    door: str = "compile"


def random_call(random: Random, forms: tuple[str, ...] = FORMS) -> Call:
    return Call(
        images=random.choice((1, 2, 2, 3, 5)),
        seed=random.choice((random.randrange(100), random.randrange(2**64))),
        known=random.choice(KNOWN),
        temperature=random.choice((1.0, 1.0, 0.6, 3.0, 0.05, 30.0)),
        first=random.choice((0, 0, 7, 10**9)),
        batch_size=random.choice((None, None, 1, 2)),
        threads=random.choice((None, 1, 2, 3)),
        form=random.choice(forms),
    )


def random_case(number: int, plain: bool = False) -> Case:
    """The case of a number. `plain` ones have no constants but at borders, and draw in raster order in float32."""
    random = Random(number)
    config = random_config(random, plain=plain)
    forms = tuple(form for form in FORMS if form != "array") if plain else FORMS
    calls = [random_call(random, forms) for _ in range(random.randint(1, 3))]
    if random.random() < 0.8:  # another form is traced anew
        calls = [replace(call, form=calls[0].form) for call in calls]
    return Case(config, tuple(calls), "compile" if random.random() < 0.8 else random.choice(tuple(CHANGES)))


class Halved(nn.Module):
    """Another layer in the place of one."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any) -> Tensor:
        return self.layer(*args) * 0.5


def _weight(module: RandomModel) -> None:
    module.out.conv.weight.data.mul_(-1)


def _attribute(module: RandomModel) -> None:
    module.amplitude = -0.5


def _buffer(module: RandomModel) -> None:
    module.out.mask[: len(module.out.mask) // 2 + 1] = 0


def _hook(module: RandomModel) -> None:
    module.first.register_forward_hook(lambda layer, inputs, output: output * 0.5)


def _layer(module: RandomModel) -> None:
    module.first = Halved(module.first)


def _method(module: RandomModel) -> None:
    planes = module.raster
    module.raster = lambda x, given: -planes(x, given)  # type: ignore[method-assign]


def _nothing(module: RandomModel) -> None:
    pass


CHANGES: dict[str, Callable[[RandomModel], None]] = {
    "weight": _weight, "attribute": _attribute, "buffer": _buffer, "hook": _hook, "layer": _layer, "head": _nothing,
    "nothing": _nothing,
}  # fmt: skip
"""Between two calls with the same module; "head" passes another one."""


def kinds(case: Case) -> list[str]:
    """What a case stands for, to be counted."""
    config = case.config
    _, height, width = config.shape
    form = "one pixel" if height == width == 1 else "one row" if height == 1 else "one column" if width == 1 else "others"
    result = [
        f"size: {'7x7 and more' if min(height, width) >= 7 else form}", f"channels: {config.shape[0]}",
        f"order: {config.order}{', turned' if config.turns and config.order != 'raster' else ''}", f"head: {config.head}",
        f"inputs: {config.inputs}", f"condition: {config.condition}", f"door: {case.door}", f"levels: {config.levels}",
        f"dtype: {'float64' if config.double else 'float32'}", f"start: {config.start.kind}",
    ]  # fmt: skip
    for block in config.blocks:
        result += [f"block: {block.kind}", f"product: {block.product}", f"activation: {block.activation}"]
        result += [f"norm: {block.norm}", f"bias: {block.bias}", f"groups: {block.groups}"]
        result += [f"constants: {constant.kind}" for constant in block.constants]
        result += [f"filled by: {constant.fill}" for constant in block.constants]
    for call in case.calls:
        result += ["calls: all", f"given: {call.known}", f"temperature: {call.temperature}", f"threads: {call.threads}"]
        result += [f"batch size: {call.batch_size}", f"first: {call.first}"]
        result += [f"conditions: {call.form}"] if CONDITIONS[config.condition] else []
    return result


def reason_of(error: Exception) -> str:
    """A refusal without its names and numbers."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\([^)]*\)|[-+]?\d[\d.,]*", "_", str(error))
    return f"{type(error).__name__}: {text[:110]}"


PLAIN = Block("plain", Window(1, 2, 0, 1), "none", "none", 1, "multiply")
SIMPLEST = Config(
    seed=0, shape=(1, 2, 3), levels=2, features=1, colour=False, interleaved=False, stacks=False, inputs="unit",
    head="categorical", layout="NKCHW", explicit=True, condition="none", blocks=(PLAIN,), first=Window(1, 2, 0, 1),
)  # fmt: skip


def shrunk(case: Case, fails: Callable[[Case], bool]) -> Case:
    """A simpler case that fails, too: each part is made plain, one after the other, as long as it goes on failing."""
    tried = {case}
    while True:
        for simpler in _simpler(case):
            if simpler not in tried and not tried.add(simpler) and fails(simpler):  # type: ignore[func-returns-value]
                case = simpler
                break
        else:
            return case


def _simpler(case: Case) -> Iterator[Case]:
    """Those that are one step simpler; some are no models at all."""
    config, blocks = case.config, case.config.blocks
    if len(case.calls) > 1:
        yield from (replace(case, calls=(call,)) for call in case.calls)
        yield replace(case, calls=case.calls[:-1])
    for simpler in _plainer(case.calls[0], Call(1, 0)):
        yield replace(case, calls=(simpler, *case.calls[1:]))
    shorter = [blocks[:i] + blocks[i + 1 :] for i in range(len(blocks)) if len(blocks) > 1]
    plainer = [(*blocks[:i], block, *blocks[i + 1 :]) for i in range(len(blocks)) for block in _plainer(blocks[i], PLAIN)]
    yield from (replace(case, config=replace(config, blocks=found)) for found in shorter + plainer)
    for plain in _plainer(config, replace(SIMPLEST, blocks=blocks)):
        yield replace(case, config=plain)
    for axis, size in enumerate(config.shape):
        for less in {1, size // 2, size - 1} - {0, size}:
            yield replace(case, config=replace(config, shape=(*config.shape[:axis], less, *config.shape[axis + 1 :])))


def _plainer(value: T, plain: T) -> Iterator[T]:
    """With one field, or one item of a field, as in what is plain."""
    for name, simple in vars(plain).items():
        found = getattr(value, name)
        if found != simple:
            yield replace(value, **{name: simple})  # type: ignore[type-var]
            if name == "constants":
                yield from (replace(value, constants=(constant,)) for constant in found if len(found) > 1)  # type: ignore
                yield from (replace(value, constants=(replace(one, fill="number"),)) for one in found[:1])  # type: ignore
