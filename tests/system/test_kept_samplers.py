"""`pixelfast.sample` keeps a compiled sampler, and uses it only if module and head are proven to be what was compiled."""

from __future__ import annotations

import dataclasses
import enum
import functools
import gc
import sys
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import pixelfast
from pixelfast import Categorical, CustomHead, api
from pixelfast.host.contents import contents, module_contents

SHAPE = (1, 3, 4)
HEAD = Categorical(3, encode="unit")
GAIN = 1.0
GAIN_BY_NAME = GAIN_AS_IT_STANDS = 1.0
CONFIG = types.SimpleNamespace(gain=[1.0])


def outside(x: Tensor) -> Tensor:
    return x


@dataclasses.dataclass
class Options:
    gain: float = 1.0
    names: list[str] = dataclasses.field(default_factory=lambda: ["a"])


class Slots:
    __slots__ = ("gain",)

    def __init__(self) -> None:
        self.gain = 1.0


class Closed:
    """An object that says nothing about what it holds."""

    def __init__(self) -> None:
        self.gain = 1.0

    def __reduce__(self) -> str:
        raise TypeError("not for pickles")

    def __getattribute__(self, name: str) -> Any:
        if name == "__dict__":
            raise AttributeError(name)
        return object.__getattribute__(self, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Closed:
        twin = Closed()
        twin.gain = self.gain
        return twin


class Mode(enum.Enum):
    PLAIN, SCALED = "plain", "scaled"


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


def counter() -> tuple[Callable[[Tensor], Tensor], Callable[[], None]]:
    gain = 1.0

    def scale(x: Tensor) -> Tensor:
        return x * gain

    def change() -> None:
        nonlocal gain
        gain = 30.0

    return scale, change


class Net(nn.Module):
    """A causal module that multiplies its logits by whatever it finds."""

    power = 1.0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shift = nn.ZeroPad2d((1, -1, 0, 0))
        self.body = nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 1))
        for weight in self.parameters():
            nn.init.normal_(weight)
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("unsaved", torch.ones(2), persistent=False)
        self.gain, self.nested, self.plain = 1.0, {"a": [1.0, (2.0, {"b": 1.0})]}, torch.ones(2)
        self.array, self.options, self.slots, self.mode = np.ones(2), Options(), Slots(), Mode.PLAIN
        self.order = OrderedDict(a=1.0, b=2.0)
        self.part = functools.partial(torch.mul, other=1.0)
        self.scale, self.change_scale = counter()
        self.unregistered = [nn.Linear(2, 1)]
        self.itself = weakref.ref(self)
        self.me: list[Any] = [self]

    def forward(self, x: Tensor) -> Tensor:
        logits = self.body(self.shift(x)) * self.gain * self.power * GAIN * CONFIG.gain[0]
        return outside(self.helped(logits)) * self.part(self.kept[0]) * self.array[0] * self.nested["a"][1][1]["b"]

    def helped(self, x: Tensor) -> Tensor:
        return self.scale(x) * self.options.gain * self.slots.gain * (3 if self.mode is Mode.SCALED else 1)


def replace(owner: Any, name: str, value: Any) -> Callable[..., None]:
    return lambda net, patch: patch.setattr(owner, name, value)


def parametrized(net: Net, _: Any) -> None:
    parametrize.register_parametrization(net.body[2], "weight", Doubled())


class ByName(Net):
    """Finds its methods by names that do not stand in its code."""

    kind, whole = "plus", "ends_as_it_stands"

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.whole)(getattr(self, f"act_{self.kind}")(super().forward(x)))

    def act_plus(self, x: Tensor) -> Tensor:
        return x * GAIN_BY_NAME

    def ends_as_it_stands(self, x: Tensor) -> Tensor:
        return x * GAIN_AS_IT_STANDS

    def never_called(self, x: Tensor) -> Tensor:
        return x * SAME["gain"]


CHANGES: dict[str, Callable[[Net, pytest.MonkeyPatch], Any]] = {
    "a weight through .data": lambda net, _: net.body[2].weight.data.mul_(9),
    "a buffer": lambda net, _: net.kept.fill_(30),
    "a buffer that is not saved": lambda net, _: net.unsaved.fill_(30),
    "a number": lambda net, _: setattr(net, "gain", 30.0),
    "the type of a number": lambda net, _: setattr(net, "gain", True),
    "a number deep in containers": lambda net, _: net.nested["a"][1][1].update(b=30.0),
    "a tensor that is no buffer": lambda net, _: net.plain.mul_(2),
    "an array": lambda net, _: net.array.fill(30),
    "a field of a dataclass": lambda net, _: setattr(net.options, "gain", 30.0),
    "a list in a dataclass": lambda net, _: net.options.names.append("b"),
    "a slot": lambda net, _: setattr(net.slots, "gain", 30.0),
    "a member of an enumeration": lambda net, _: setattr(net, "mode", Mode.SCALED),
    "the order of a dictionary": lambda net, _: net.order.move_to_end("a"),
    "an argument of a partial": lambda net, _: setattr(net, "part", functools.partial(torch.mul, other=30.0)),
    "what a function closes over": lambda net, _: net.change_scale(),
    "another function": lambda net, _: setattr(net, "scale", lambda x: x * 30),
    "a module that is not registered": lambda net, _: net.unregistered[0].weight.data.mul_(2),
    "a layer": lambda net, _: net.body.__setitem__(1, nn.Tanh()),
    "the order of layers": lambda net, _: net._modules.update(shift=net.body, body=net.shift),
    "a layer's attribute": lambda net, _: setattr(net.shift, "padding", (2, -2, 0, 0)),
    "a weight in two places": lambda net, _: setattr(net, "bias", net.body[2].bias),
    "a forward hook": lambda net, _: net.body[2].register_forward_hook(lambda module, inputs, output: output * 30),
    "a hook before the forward": lambda net, _: net.body.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 30,)),
    "a hook for all modules": lambda net, patch: patch.setitem(
        nn.modules.module._global_forward_hooks, -1, lambda module, inputs, output: output * 3
    ),
    "the forward of one layer": lambda net, _: setattr(net.body[1], "forward", torch.tanh),
    "the forward of its class": replace(Net, "forward", lambda self, x: self.body(self.shift(x)) * 9),
    "a method that the forward calls": replace(Net, "helped", lambda self, x: x * 30),
    "an attribute of its class": replace(Net, "power", 30.0),
    "the forward of PyTorch's class": replace(nn.ReLU, "forward", lambda self, x: x.sigmoid()),
    "its class": lambda net, _: setattr(net, "__class__", type("Other", (Net,), {"power": 30.0})),
    "a global number": replace(sys.modules[__name__], "GAIN", 30.0),
    "a global function": replace(sys.modules[__name__], "outside", lambda x: x * 30),
    "what a global object holds": lambda net, patch: patch.setattr(CONFIG, "gain", [30.0]),
    "a parametrization": parametrized,
}

SAME: dict[str, Callable[[Net, pytest.MonkeyPatch], Any]] = {
    "nothing": lambda net, _: None,
    "the mode": lambda net, _: net.train(not net.training),
    "the names of parameters that are no state": lambda net, _: net.requires_grad_(False),
    "a hook that is gone again": lambda net, _: net.register_forward_hook(print).remove(),
    "a hook of the backward": lambda net, _: net.body[0].register_full_backward_hook(lambda *_: None),
    "a forward": lambda net, _: net(torch.zeros(1, *SHAPE)),
    "a gradient": lambda net, _: net(torch.zeros(1, *SHAPE)).sum().backward(),
    "an equal layer made anew": lambda net, _: net.body.__setitem__(1, nn.ReLU()),
    "an equal function made anew": lambda net, _: vars(net).update(zip(("scale", "change_scale"), counter(), strict=True)),
    "a global that no forward reads": replace(sys.modules[__name__], "SAME", {}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    before, again = module_contents(net), module_contents(net)
    assert before == again
    assert before.certain
    CHANGES[change](net, monkeypatch)
    assert module_contents(net) != before


@pytest.mark.parametrize("name", ["GAIN_BY_NAME", "GAIN_AS_IT_STANDS"])
def test_methods_that_are_found_by_name_count(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = ByName()
    before = module_contents(net)
    assert before.certain
    monkeypatch.setitem(SAME, "gain", 30.0)
    assert module_contents(net) == before
    monkeypatch.setattr(sys.modules[__name__], name, 30.0)
    assert module_contents(net) != before


@pytest.mark.parametrize("change", SAME)
def test_what_the_forward_does_not_depend_on_is_no_change(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    before = module_contents(net)
    SAME[change](net, monkeypatch)
    assert module_contents(net) == before


# -------------------------------------------------------------------- what is drawn


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The modules that `sample` compiles."""
    seen: list[nn.Module] = []
    compile = api.compile
    monkeypatch.setattr(api, "compile", lambda model, *args, **options: seen.append(model) or compile(model, *args, **options))
    return seen


def draw(model: nn.Module, head: Any = HEAD, engine: str = "reference", **options: Any) -> Tensor:
    return pixelfast.sample(model, 16, shape=SHAPE, head=head, engine=engine, seed=0, **options)


AFTER = ("what a function closes over", "a layer", "a forward hook")


@pytest.mark.parametrize("change", AFTER)
def test_a_changed_module_is_drawn_from_as_it_is(
    change: str, monkeypatch: pytest.MonkeyPatch, compiled: list[nn.Module]
) -> None:
    net = Net()
    before = draw(net)
    assert torch.equal(draw(net), before)
    assert len(compiled) == 1
    CHANGES[change](net, monkeypatch)
    now = draw(net)
    assert not torch.equal(now, before)
    assert torch.equal(now, pixelfast.compile(net, SHAPE, HEAD, engine="naive").sample(16, seed=0))


def test_an_equal_head_does_not_compile_again(compiled: list[nn.Module]) -> None:
    net = Net()
    heads = [lambda: Categorical(3, encode="unit"), lambda: Categorical(3, encode=torch.tensor([0.0, 0.5, 1.0]))]
    heads.append(lambda: Categorical(3, encode=lambda images: images / 2))
    images = []
    for count, make in enumerate(heads, 1):
        images += [draw(net, make()), draw(net, make())]
        assert len(compiled) == count
    assert all(torch.equal(images[0], other) for other in images[1:])
    head = Categorical(3, encode="unit")
    draw(net, head)
    head.encode = "symmetric"
    assert torch.equal(draw(net, head), draw(net, Categorical(3, encode="symmetric")))
    assert not torch.equal(draw(net, head), images[0])


def test_two_images_decide_where_contents_cannot_be_compared(compiled: list[nn.Module]) -> None:
    class Scaled(Net):
        def __init__(self) -> None:
            super().__init__()
            self.closed, self.unused = Closed(), 0

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.closed.gain

    net = Scaled()
    assert not module_contents(net).certain
    before = draw(net)
    assert torch.equal(draw(net), before)
    assert len(compiled) == 1
    net.closed.gain = 30.0
    now = draw(net)
    assert len(compiled) == 2
    assert torch.equal(now, draw(net, engine="naive"))
    assert not torch.equal(now, before)


def test_two_images_decide_about_functions_that_cannot_be_compared(compiled: list[nn.Module]) -> None:
    class Heated(Closed):
        def __call__(self, parameters: Tensor) -> Tensor:
            return (parameters * self.gain).softmax(-1)

    net, heat = Net(), Heated()
    head = CustomHead(3, 3, heat, encode="unit")
    assert torch.equal(draw(net, head), draw(net, head))
    assert len(compiled) == 1
    heat.gain = 30.0
    assert torch.equal(draw(net, head), draw(net, CustomHead(3, 3, lambda p: (p * 30).softmax(-1), encode="unit")))
    assert len(compiled) == 3


def test_a_kept_sampler_does_not_keep_its_module_alive() -> None:
    net = Net()
    draw(net)
    alive, number = weakref.ref(net), id(net)
    assert number in api._kept
    del net
    gc.collect()
    assert alive() is None
    assert number not in api._kept


def test_modules_with_an_equality_of_their_own_are_not_mixed_up() -> None:
    class Same(Net):
        def __hash__(self) -> int:
            return 0

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Same)

    one, other = Same(), Same()
    other.gain = 30.0
    assert not torch.equal(draw(one), draw(other))


class Named(np.ndarray[Any, Any]):
    """An array with an attribute of its own."""

    name = "one"


def test_values_are_compared_by_content() -> None:
    def same(one: object, other: object) -> bool:
        return contents(one) == contents(other)

    long = np.arange(5000.0)
    changed = long.copy()
    changed[2500] += 1e-9
    assert str(long) == str(changed)
    assert not same(long, changed)
    assert same(long, long.copy())
    masked = np.ma.array(long, mask=long == 3)
    assert same(masked, masked.copy())
    for other in (np.ma.array(long, mask=long == 4), np.ma.array(long), np.ma.array(long, mask=long == 3, fill_value=-1.0)):
        assert not same(masked, other)
    named = [long.copy().view(Named) for _ in range(2)]
    assert same(*named)
    named[1].name = "other"
    assert not same(*named)
    different: list[Any] = [0, 0.0, -0.0, 0j, False, None, "0", b"0", (0,), [0], {0}, {0: 0}, np.zeros(()), torch.zeros(())]
    different += [torch.zeros(1), torch.zeros(1, 0), np.float32(0), np.int64(0), np.zeros((), np.float32)]
    different += [Options, Options(), Mode.PLAIN, torch.float32]
    assert all((i == j) == same(one, other) for i, one in enumerate(different) for j, other in enumerate(different))
    ring: list[Any] = [1]
    ring.append(ring)
    assert same(ring, ring)
    assert same(float("nan"), float("nan"))
    assert all(contents(value).certain for value in different)
    for value in (torch.ones(2, 3, dtype=torch.complex64), torch.ones(2, dtype=torch.bfloat16), torch.ones(3, 2).t()):
        assert contents(value).certain
        assert same(value, value.clone())
        assert not same(value, value * 2)
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    assert contents(deep).certain
    assert not contents(range(10), list(range(300_000))).certain
