"""The user's module is bit-identical after every call, whatever its attributes and hooks close over."""

from __future__ import annotations

import functools
import random
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pixelfast
from pixelfast import Categorical, UnsupportedModel
from pixelfast.host.contents import module_contents
from pixelfast.host.copying import independent_copy

SHAPE = (1, 3, 4)
HEAD = Categorical(3, encode="unit")
SEEN: dict[str, Tensor] = {}
LAST: Tensor | None = None


class Masked(nn.Conv2d):
    """Leaves a tensor behind in each call, and counts its calls: whoever runs it is caught."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        self.mask = torch.ones(3, 3)
        self.mask[1, 1:] = 0
        self.mask[2:] = 0
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=1)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.drop = Masked(1, 8, 3), nn.Conv2d(8, 3, 1), nn.Dropout(0.5)
        self.chain: Any = None

    def run(self, x: Tensor) -> Tensor:
        if self.chain is into_globals:
            Base.remembered = x  # type: ignore[attr-defined]
        return self.second(self.drop(torch.relu(self.first(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.chain(x)


class Holder:
    __slots__ = ("__weakref__", "function")

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function


def closed_over(net: Base) -> None:
    net.chain = lambda x: net.run(x)


def closed_over_twice(net: Base) -> None:
    def outer() -> Callable[[Tensor], Tensor]:
        depth = 1

        def inner(x: Tensor) -> Tensor:
            return net.run(x) if depth else inner(x)

        return inner

    net.chain = outer()


def default_argument(net: Base) -> None:
    net.chain = lambda x, own=net: own.run(x)


def keyword_default(net: Base) -> None:
    def chain(x: Tensor, *, own: Base = net) -> Tensor:
        return own.run(x)

    net.chain = chain


def partial_of_a_method(net: Base) -> None:
    net.chain = functools.partial(net.run)


def partial_of_a_lambda(net: Base) -> None:
    net.chain = functools.partial(lambda own, x: own.run(x), net)


def bound_method(net: Base) -> None:
    net.chain = net.run


def cached(net: Base) -> None:
    weight = functools.lru_cache(maxsize=None)(lambda: net.second.weight)
    net.cached = weight
    net.chain = lambda x: F.conv2d(torch.relu(net.first(x)), net.cached(), net.second.bias)


def weak_reference(net: Base) -> None:
    own = weakref.ref(net)
    net.chain = lambda x: own().run(x)  # type: ignore[union-attr]


def weak_proxy(net: Base) -> None:
    net.__dict__["proxy"] = weakref.proxy(net)
    net.chain = functools.partial(lambda holder, x: holder["proxy"].run(x), {"proxy": net.__dict__["proxy"]})


def unregistered_list(net: Base) -> None:
    steps = [net.first, torch.relu, net.second]
    net.chain = lambda x: functools.reduce(lambda y, step: step(y), steps, x)


def dictionary_of_functions(net: Base) -> None:
    net.__dict__["table"] = {"run": lambda x: net.run(x), "other": [net.run, (lambda: net,)]}
    net.chain = lambda x: net.table["run"](x)


def slots(net: Base) -> None:
    net.holder = Holder(lambda x: net.run(x))
    net.chain = lambda x: net.holder.function(x)


def tuple_and_deque(net: Base) -> None:
    net.steps = (deque([lambda x: net.run(x)]),)
    net.chain = lambda x: net.steps[0][0](x)


def function_attribute(net: Base) -> None:
    def chain(x: Tensor) -> Tensor:
        return chain.own.run(x)  # type: ignore[attr-defined]

    chain.own = net  # type: ignore[attr-defined]
    net.chain = chain


def hook(net: Base) -> None:
    kept: list[Tensor] = []
    net.kept = kept
    net.first.register_forward_hook(lambda module, inputs, output: kept.append(output) or output)
    net.second.register_forward_pre_hook(lambda module, inputs: (net.drop(inputs[0]),))
    net.chain = net.run


def bound_hook(net: Base) -> None:
    class Recorder:
        def __init__(self) -> None:
            self.net, self.seen = net, {}

        def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.seen[len(self.seen)] = self.net.first.mask

        def hook(self, *call: Any) -> None:
            self(*call)

    recorder = Recorder()
    net.first.register_forward_hook(recorder)
    net.first.register_forward_hook(recorder.hook)
    net.chain = net.run


def nonlocal_counter(net: Base) -> None:
    calls = 0

    def chain(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return net.run(x)

    net.chain, net.calls = chain, lambda: calls


def forward_on_the_instance(net: Base) -> None:
    net.forward = lambda x: net.run(x)  # type: ignore[method-assign]


def method_of_a_container(net: Base) -> None:
    net.log: list[Any] = []
    net.append = net.log.append
    net.chain = lambda x: (net.append(net.first.mask if hasattr(net.first, "mask") else 0), net.run(x))[1]


def into_globals(x: Tensor) -> Tensor:
    global LAST
    LAST = SEEN["last"] = x
    return OUTSIDE.run(x)


WAYS = [closed_over, closed_over_twice, default_argument, keyword_default, partial_of_a_method, partial_of_a_lambda]
WAYS += [bound_method, cached, weak_reference, weak_proxy, unregistered_list, dictionary_of_functions, slots, tuple_and_deque]
WAYS += [hook, bound_hook, function_attribute, nonlocal_counter, forward_on_the_instance, method_of_a_container]

OUTSIDE = Base()
OUTSIDE.chain = into_globals
OUTSIDE.eval()


def state(net: nn.Module) -> list[Any]:
    return [module_contents(net), [module.training for module in net.modules()], [list(vars(m)) for m in net.modules()]]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_module_stays_as_it_is_whatever_it_closes_over(way: Callable[[Base], None]) -> None:
    net = Base()
    way(net)
    before = state(net)
    assert before[0].certain
    randomness = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    assert pixelfast.check(net, SHAPE, HEAD).autoregressive
    sampler = pixelfast.compile(net, SHAPE, HEAD, engine="reference")
    images = sampler.sample(2, seed=0)
    assert sampler.verify(images, seed=0).ok
    sampler.log_prob(images)
    assert torch.equal(images, pixelfast.compile(net, SHAPE, HEAD, engine="naive").sample(2, seed=0))
    assert state(net) == before
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    assert torch.equal(after[0], randomness[0])
    assert after[1:] == randomness[1:]


def test_a_copy_is_frozen_whatever_it_closes_over() -> None:
    """A variable that a closure reads, and another function writes, later on: the sampler goes on with the old value."""
    net, gain = Base(), 1.0

    def change() -> None:
        nonlocal gain
        gain = 30.0

    net.chain = lambda x: net.run(x) * gain
    sampler = pixelfast.compile(net, SHAPE, HEAD, engine="reference")
    images = sampler.sample(8, seed=0)
    change()
    assert torch.equal(sampler.sample(8, seed=0), images)
    assert sampler.verify(images, seed=0).ok
    assert not torch.equal(pixelfast.compile(net, SHAPE, HEAD, engine="naive").sample(8, seed=0), images)


def test_globals_hold_no_tensors_of_a_trace() -> None:
    """What a forward leaves in globals, in modules there and in its class is as it was before."""
    net = Base()
    net.chain = into_globals
    seen, outside = dict(SEEN), state(OUTSIDE)
    pixelfast.compile(net, SHAPE, HEAD, engine="reference")
    assert LAST is None
    assert seen == SEEN
    assert state(OUTSIDE) == outside
    assert not hasattr(Base, "remembered")


class Itself:
    """An object that says of itself that it is not to be copied."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __deepcopy__(self, memo: dict[int, Any]) -> Itself:
        return self


def test_what_would_be_shared_is_refused_before_it_is_touched() -> None:
    net = Base()
    net.second.holder = Itself(net.first)  # type: ignore[assignment]
    net.chain = lambda x: net.second(net.second.holder.net(x))
    before = state(net)
    with pytest.raises(UnsupportedModel, match=r"the attribute 'holder' of layer 'second' .* an object \(Masked\)"):
        pixelfast.check(net, SHAPE, HEAD)
    assert state(net) == before


def test_a_copy_shares_what_cannot_change() -> None:
    """Functions of PyTorch stay the same objects, since forwards may compare them."""
    net = Base()
    net.act, net.pool, net.kind = F.relu, F.max_pool2d, torch.float32  # type: ignore[assignment]
    net.log = __import__("logging").getLogger("here")
    net.chain = net.run
    clone = independent_copy(net)
    assert clone.act is F.relu
    assert clone.pool is F.max_pool2d
    assert clone.log is net.log
    assert clone.chain.__self__ is clone


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["traced", "scripted", "compiled", "weight norm", "optimizer"])
def test_modules_that_pytorch_changed_can_be_copied(kind: str) -> None:
    net: nn.Module = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU())
    if kind == "traced":
        net = torch.fx.symbolic_trace(net)
    elif kind == "scripted":
        net = torch.jit.script(net)
    elif kind == "compiled":
        net = torch.compile(net)  # type: ignore[assignment]
    elif kind == "weight norm":
        nn.utils.weight_norm(net[0])  # type: ignore[index]
    else:
        net.optimizer = torch.optim.Adam(net.parameters())  # type: ignore[assignment]
    image = torch.ones(1, 1, 2, 3)
    assert torch.equal(independent_copy(net).eval().forward(image), net.eval().forward(image))
    module_contents(net)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_scripted_modules_are_drawn_from_as_they_are_or_refused_by_name() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU()).eval()
    nn.init.zeros_(net[0].weight)  # type: ignore[arg-type]
    options: dict[str, Any] = {"shape": (1, 2, 3), "head": Categorical(4, encode="unit")}
    expected = pixelfast.sample(net, 3, seed=0, engine="naive", **options)
    for scripted in (torch.jit.script(net), torch.jit.trace(net, torch.ones(2, 1, 2, 3))):
        assert torch.equal(pixelfast.sample(scripted, 3, seed=0, engine="naive", **options), expected)
        with pytest.raises(UnsupportedModel, match="pass the module that they were made from"):
            pixelfast.sample(scripted, 3, engine="reference", **options)


def test_random_states_stay_as_they_are_though_the_forward_draws_numbers() -> None:
    class Drawing(Base):
        def forward(self, x: Tensor) -> Tensor:
            random.random()
            np.random.rand()  # noqa: NPY002
            return self.run(x) + 0 * torch.rand(2).sum()

    def states() -> list[object]:
        return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # type: ignore[index]  # noqa: NPY002

    net = Drawing()
    before = states()
    for engine in ("reference", "naive"):
        sampler = pixelfast.compile(net, SHAPE, HEAD, engine=engine)
        images = sampler.sample(2, seed=0)
        assert sampler.verify(images, seed=0).ok
        sampler.log_prob(images)
        assert states() == before


GENERATORS = torch.Generator(), random.Random(0), np.random.default_rng(0), np.random.RandomState(0)


def test_generators_of_a_python_module_stay_as_they_are() -> None:
    class Drawing(Base):
        def forward(self, x: Tensor) -> Tensor:
            tensor, plain, array, old = GENERATORS
            drawn = plain.random() + array.random() + old.rand()
            if not torch.compiler.is_exporting():  # the tracer knows no generators
                drawn += torch.rand(1, generator=tensor)
            return self.run(x) + 0 * drawn

    def states() -> list[str]:
        tensor, plain, array, old = GENERATORS
        result = tensor.get_state().tolist(), plain.getstate(), array.bit_generator.state, old.get_state()
        return list(map(str, result))

    before = states()
    assert pixelfast.check(Drawing(), SHAPE, HEAD).autoregressive
    assert states() == before
