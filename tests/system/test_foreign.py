"""Modules in other people's idioms: they go through unmodified, match the naive loop, and stay as they were."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from foreign import Foreign
from foreign_models import FOREIGN
from oracle import PARAMETERS, Traced, agree, compare, snapshot, spread_error, trace
from torch import Tensor, nn

import pixelfast
from pixelfast.debug import graph_parameters
from pixelfast.inputs.conditions import Conditions
from pixelfast.trace.capture import call

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")

IMAGES = 3


@pytest.fixture(scope="module", params=sorted(FOREIGN))
def case(request: pytest.FixtureRequest) -> tuple[Foreign, nn.Module, Traced]:
    """A module, half of it in training mode, that has been through the whole pipeline, and what the pipeline made of it."""
    foreign = FOREIGN[request.param]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        module = foreign.build()
    for index, child in enumerate(module.modules()):
        child.training = index % 3 != 1
    before = snapshot(module)
    traced = trace(module, foreign.shape, foreign.head, foreign.cond(IMAGES))
    assert compare(traced, IMAGES, cond=foreign.cond(IMAGES)) == 0
    assert snapshot(module) == before
    return foreign, module, traced


def test_engines_draw_what_the_naive_loop_draws(case: tuple[Foreign, nn.Module, Traced]) -> None:
    """With another seed and temperature than the fixture's, and a single image."""
    foreign, _, traced = case
    assert compare(traced, 1, 7, foreign.cond(1), temperature=0.7) == 0


def test_given_pixels_are_kept(case: tuple[Foreign, nn.Module, Traced]) -> None:
    """Three known rows, and scattered pixels below."""
    foreign, _, traced = case
    cond = foreign.cond(IMAGES)
    given = traced.run("naive", traced.request(IMAGES, 5, cond), cond).values
    given[:, 3:][torch.rand(given[:, 3:].shape, generator=torch.Generator().manual_seed(0)).numpy() < 0.7] = -1
    request = traced.request(IMAGES, 6, cond, given=given)
    naive = traced.run("naive", request, cond)
    assert (naive.values[given >= 0] == given[given >= 0]).all()
    for engine in traced.engines:
        assert agree(traced, traced.run(engine, request, cond), naive, request, cond, engine) == 0


def test_the_module_can_still_train(case: tuple[Foreign, nn.Module, Traced]) -> None:
    """One step of gradient descent changes the loss, and the same step as on a module that was never sampled."""
    foreign, module, traced = case
    untouched = foreign.build()
    trained = copy.deepcopy(module) if not _has_graph_tensors(module) else module
    images = torch.randint(foreign.head.levels, (4, *foreign.shape), generator=torch.Generator().manual_seed(3))
    losses = [descend(model, foreign, traced, images) for model in (trained, untouched)]
    np.testing.assert_equal(losses[0], losses[1])  # NaN counts, which the gradient of an empty softmax is
    assert losses[0][0] != losses[0][1]


def _has_graph_tensors(module: nn.Module) -> bool:
    return any(isinstance(v, Tensor) and not v.is_leaf for child in module.modules() for v in vars(child).values())


def descend(model: nn.Module, foreign: Foreign, traced: Traced, images: Tensor) -> tuple[float, float]:
    """The loss before and after a step."""
    torch.manual_seed(0)
    model.eval()  # dropout and batch statistics would hide what the step does
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(2):
        loss = negative_log_likelihood(model, foreign, traced, images)
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return losses[0], losses[1]


def negative_log_likelihood(model: nn.Module, foreign: Foreign, traced: Traced, images: Tensor) -> Tensor:
    conditions = Conditions.parse(foreign.cond(len(images)))
    output = model(foreign.head.encode_images(images), *conditions.args, **conditions.kwargs)
    while not isinstance(output, Tensor):
        output = output[0]
    parameters = traced.compiled.analysis.layout.read(output, len(images))
    values = images.permute(0, 2, 3, 1)
    return -foreign.head.log_prob(foreign.head.conditionals(parameters, values), values).mean()


def test_a_module_that_keeps_its_activations() -> None:
    """Tensors with a history, as attributes and in lists, are left behind by many forwards and stop copy.deepcopy."""

    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 3, (2, 3))
            self.kept: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            self.last = self.conv(torch.nn.functional.pad(x, (1, 1, 2, 0))[:, :, :-1])
            if torch.is_grad_enabled():
                self.kept.append(self.last)
            return self.last

    module = Keeps()
    module(torch.zeros(1, 1, 4, 4))
    last, kept = module.last, list(module.kept)
    images = pixelfast.sample(module, 2, shape=(1, 4, 4), head=pixelfast.Categorical(3), seed=0)
    assert images.shape == (2, 1, 4, 4)
    assert module.last is last
    assert len(module.kept) == 1
    assert module.kept[0] is kept[0]


def test_batch_normalisation_uses_the_statistics_of_training() -> None:
    """The same weights with other running statistics draw other images."""
    foreign = FOREIGN["DataMasks"]
    module = foreign.build()
    first = pixelfast.sample(module, 3, shape=foreign.shape, head=foreign.head, seed=0)
    for name, buffer in module.named_buffers():
        if name.endswith("running_var"):
            buffer.mul_(7)
    second = pixelfast.sample(module, 3, shape=foreign.shape, head=foreign.head, seed=0)
    assert not torch.equal(first, second)


def test_the_output_of_the_module_itself_is_what_is_drawn_from() -> None:
    """The layout found reads the same numbers as the author's own view of the output."""
    foreign = FOREIGN["InterleavedColours"]
    traced = trace(foreign.build(), foreign.shape, foreign.head)
    images = torch.randint(4, (2, *foreign.shape), generator=torch.Generator().manual_seed(0))
    output = call(traced.module, foreign.head.encode_images(images), Conditions())
    own = output.view(2, 4, *foreign.shape)  # output channel i is level i // 3 of colour i % 3
    read = traced.compiled.analysis.layout.read(output, 2)
    assert torch.equal(read, own.permute(0, 3, 4, 2, 1))


def test_the_graph_itself_gives_the_module_s_parameters(case: tuple[Foreign, nn.Module, Traced]) -> None:
    """Each kind of node by its definition in float64, before anything is scheduled."""
    foreign, _, traced = case
    cond = Conditions.parse(foreign.cond(2))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(traced.head.levels, (2, *foreign.shape), generator=generator).permute(0, 2, 3, 1)
    found = graph_parameters(traced.compiled, cond, images, traced.order)
    assert spread_error(found.numpy(), traced.oracle.parameters(images, cond).numpy()) <= PARAMETERS
