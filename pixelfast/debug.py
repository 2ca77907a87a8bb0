"""Debugging a wrong image: the first sub-pixel, and the first operation or instruction, whose numbers differ from the module's.

A sub-pixel is wrong because of one stage: the trace (a rule that makes nodes of an operation), the passes over the graph, the
lowering to a program, or the engine that runs it. Each stage's result is evaluated on the same finished images and compared
with what the module gives; the first stage that differs is searched for its first wrong number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from .engines import reference, registry
from .engines.base import Request, reordered, restored
from .errors import InvalidInput
from .host.boundary import public
from .inputs.arguments import values_of
from .inputs.conditions import Conditions
from .ir.graph import Graph
from .ir.program import Buffer, Draw, Field, Instruction, Map, Program, Rect, Slot
from .ir.scan_order import Order
from .ops.evaluate import evaluate_nodes
from .pipeline import Compiled, evaluate_fields
from .precision import PRECISIONS
from .sampler import Sampler
from .trace.capture import capture, layer_of
from .trace.convert import convert
from .trace.index import IMAGES, ElementTable
from .trace.values import Value
from .verify import distances

__all__ = ["Difference", "first_difference"]

APART = 1e-3
"""How far apart two numbers may lie, relative to the spread of their tensor's numbers, and be the same but for rounding."""
SURE = 1e-5
"""Values less probable than this are given, not drawn: rounding alone could move them out of reach of their noise."""


At = tuple[int, int, int, int]
"""A sub-pixel: image, row, column, channel."""


@dataclass(frozen=True)
class Difference:
    """Where an image first goes wrong.

    Attributes:
        image, row, col, channel: the first sub-pixel, in the order of generation, whose distribution is not the module's.
        stage: "trace", "passes", "lowering" or "engine": what made it wrong.
        where: the operation of the traced module, or the instruction of the program, that gives the first wrong number; ""
            where the stage has no smaller parts.
        layer: the user's submodule that it belongs to, as in `named_modules()`; "" if none.
        place: (row, column, feature) of the first wrong number, in what `where` gives.
        expected, found: that number, by the stage before and by this one.
    """

    image: int
    row: int
    col: int
    channel: int
    stage: str
    where: str
    layer: str
    place: tuple[int, ...]
    expected: float
    found: float

    def __str__(self) -> str:
        belongs = f" (layer {self.layer!r})" if self.layer else ""
        number = f"at {self.place} it gives {self.found:.6g} instead of {self.expected:.6g}"
        return (
            f"image {self.image}, row {self.row}, column {self.col}, channel {self.channel} is the first sub-pixel whose "
            f"distribution is not the module's. The stage {self.stage!r} is to blame"
            + (f", at {self.where}{belongs}: {number}" if self.where else f": {number}")
        )


@public
def first_difference(sampler: Sampler, images: Tensor, *, cond: Any = None) -> Difference | None:
    """Find the first number that a compiled model computes otherwise than its module.

    Args:
        images: integers (N, C, H, W), any images of the model's shape: what the sampler drew, or others.
        cond: as in `Sampler.sample`.

    Returns:
        The first difference in the order of generation, or None where all distributions agree within the engine's precision.

    Raises:
        InvalidInput: images of another shape, or the sampler's engine is "naive", which is the module itself.

    Example:
        >>> model = pixelfast.models.PixelCNN((1, 7, 5), levels=4, features=8, blocks=1)
        >>> sampler = pixelfast.compile(model, self_check=False)
        >>> print(pixelfast.debug.first_difference(sampler, sampler.sample(4, seed=0)))
        None
    """
    if sampler.engine == registry.NAIVE:
        raise InvalidInput('engine="naive" runs the module itself: there is nothing that could differ from it')
    values = values_of("images", images, sampler.shape, sampler.head.levels)
    conditions = sampler._understood(cond, len(values))
    conditions.check(len(values))
    search = _Search(sampler, conditions, values)
    result = search.by(sampler.engine)
    wrong = search.wrong(result)
    return None if wrong is None else search.blame(*wrong, result[wrong[0]])


class _Search:
    def __init__(self, sampler: Sampler, conditions: Conditions, values: np.ndarray) -> None:
        self.sampler, self.head, self.order = sampler, sampler.head, sampler.order
        self.conditions, self.values = conditions, values
        self.compiled = sampler._prepare(conditions)[0]
        self.module = sampler._oracle(conditions).parameters(torch.from_numpy(values).long(), conditions)
        ranks = self.order.ranks(*values.shape[1:3])
        self.rank = torch.from_numpy(ranks.copy())[None, :, :, None] * values.shape[3] + torch.arange(values.shape[3])

    def by(self, engine: str) -> list[Tensor]:
        """What an engine draws these images from: every value given, and every value drawn, where that can be had."""
        precision = self.sampler.precision if engine == self.sampler.engine else "fp32"
        made = registry.make(engine, self.compiled.program, precision, self.sampler._device)
        fields = evaluate_fields(self.compiled, self.conditions, len(self.values))
        found = []
        for request in self.requests():
            result = made.run(replace(reordered(request, self.order), fields=fields, head=self.head))
            parameters = restored(result, self.order).parameters
            assert parameters is not None
            found.append(torch.from_numpy(parameters))
        return found

    def requests(self) -> Iterator[Request]:
        """Calls that end in these images: with their values given, and with noise that draws them."""
        whole = Request(np.zeros(self.values.shape, np.float32), self.values, (), want_parameters=True)
        yield whole
        own = self.head.conditionals(self.module, torch.from_numpy(self.values).long())
        edges = torch.nn.functional.pad(self.head.edges(own).double(), (1, 0))
        edges = torch.nn.functional.pad(edges, (0, 1), value=1.0)
        at = torch.from_numpy(self.values).long()[..., None]
        low, high = edges.gather(-1, at)[..., 0], edges.gather(-1, at + 1)[..., 0]
        noise = ((low + high) / 2).clamp(0, 1 - 2.0**-24).float().numpy()
        given = np.where((high - low).numpy() > SURE, -1, self.values).astype(np.int32)
        yield replace(whole, noise=noise, given=given)

    def wrong(self, found: list[Tensor], precision: str | None = None) -> tuple[int, At] | None:
        """Which of two calls has a wrong distribution, and the first sub-pixel with one; None if neither has."""
        tolerance = PRECISIONS[precision or self.sampler.precision].tolerance
        for call, parameters in enumerate(found):
            away = distances(self.head, parameters, self.module, torch.from_numpy(self.values).long()) > tolerance
            if away.any():
                first = torch.where(away, self.rank, torch.iinfo(torch.int64).max).flatten(1)
                image = int(first.amin(1).argmin())
                at = np.unravel_index(int(first[image].argmin()), away.shape[1:])
                row, col, channel = (int(i) for i in at)
                return call, (image, row, col, channel)
        return None

    def blame(self, call: int, at: At, found: Tensor) -> Difference:
        """The stage that makes a sub-pixel (image, row, col, channel) wrong, and its first wrong number."""
        if self.wrong([self.by(registry.REFERENCE)[call]], "fp32") is None:
            return self.instruction(at, found)
        pair = torch.tensor([at[0]] * IMAGES)
        conditions = self.conditions.rows(pair, len(self.values))
        images = torch.from_numpy(self.values[pair.numpy()]).long()
        module = self.module[pair]
        graph = graph_parameters(self.compiled, conditions, images, self.order)
        if bool((distances(self.head, graph.float(), module, images) <= PRECISIONS["fp32"].tolerance).all()):
            return self.stage("lowering", at, found)
        return self.operation(at, conditions, images) or self.stage("passes", at, found)

    def stage(self, stage: str, at: At, found: Tensor, where: str = "") -> Difference:
        """A stage of which no smaller part is known: the parameter that is furthest off."""
        expected, wrong = self.module[at], found[at]
        number = int((expected - wrong).abs().nan_to_num(torch.inf).argmax())
        image, row, col, channel = at
        place = row, col, number
        return Difference(image, row, col, channel, stage, where, "", place, float(expected[number]), float(wrong[number]))

    # The engine: instruction by instruction, against the reference interpreter.

    def instruction(self, at: At, found: Tensor) -> Difference:
        """The first instruction whose result is not the reference interpreter's, in the first pixel where any is not."""
        program = self.compiled.program
        fields = evaluate_fields(self.compiled, self.conditions, len(self.values))
        request = reordered(next(self.requests()), self.order)
        sampler = self.sampler
        best: tuple[int, int, Difference] | None = None
        for number, instruction in enumerate(program.instructions()):
            for first in range(0, instruction.out.count, program.parameters):
                probe = probing(program, number, first)
                ask = replace(request, fields=fields, head=self.head)
                engine = registry.make(sampler.engine, probe, sampler.precision, sampler._device)
                own, expected = engine.run(ask).parameters, reference.run(probe, ask).parameters
                assert own is not None
                assert expected is not None
                apart = _apart(torch.from_numpy(own[at[0]]), torch.from_numpy(expected[at[0]])).numpy()
                if not apart.any():
                    continue
                rank = int(np.flatnonzero(apart.reshape(-1, program.parameters).any(-1))[0])
                if best is None or (rank, number) < best[:2]:
                    line, pixel, _, feature = np.unravel_index(int(np.flatnonzero(apart)[0]), apart.shape)
                    place = (*self.order.place(int(line), int(pixel), *self.values.shape[1:3]), int(feature) + first)
                    numbers = (float(array[at[0]].flat[np.flatnonzero(apart)[0]]) for array in (expected, own))
                    name = program.buffers[instruction.out.buffer].name
                    where = f"instruction {number}, {type(instruction.body).__name__} into {name!r}"
                    best = rank, number, Difference(*at, "engine", where, instruction.layer, place, *numbers)
        if best is not None:
            return best[2]
        return self.stage("engine", at, found, "no single instruction, but how they run pixel after pixel, or the draw")

    # The trace: operation by operation, against the traced module.

    def operation(self, at: At, conditions: Conditions, images: Tensor) -> Difference | None:
        """The first operation of the traced module whose result the nodes made of it do not give."""
        analysis = self.compiled.analysis
        captured = capture(self.sampler._module, self.sampler.shape, self.head, conditions)
        kept: dict[fx.Node, Value] = {}

        def watch(node: fx.Node, value: Any) -> None:
            if isinstance(value, Value) and value.numbers is not None:
                kept[node] = value

        frame = analysis.frame
        converted = convert(replace(captured, constants=dict(captured.constants)), self.sampler.shape, self.head, frame, watch)
        builder = converted.builder
        graph = replace(analysis.graph, nodes=tuple(builder.nodes), fields=tuple(builder.fields))
        compiled = replace(self.compiled, analysis=replace(analysis, condition_graph=converted.conditions))
        nodes = _evaluated(graph, compiled, conditions, images, frame)
        inputs = self.head.encode_images(images.permute(0, 3, 1, 2)).to(captured.example.dtype)
        tensors = [tensor for _, tensor in conditions.tensors()]
        named = {**captured.constants, **dict(zip(captured.conditions, tensors, strict=True))}
        if captured.image is not None:
            named[captured.image] = inputs
        traced = _Traced(captured.root, captured.graph)
        for node, value in traced.values(named):
            if node not in kept:
                continue
            ids = kept[node].ids
            seen, known = _numbers(builder.table, ids, nodes), ids > 0
            wrong = _apart(torch.where(known, seen, 0.0), torch.where(known, value.double(), 0.0))
            if wrong.any():
                first = tuple(int(i) for i in wrong.nonzero()[0])
                where, numbers = f"{node.name} = {node.target}", (float(value[first]), float(seen[first]))
                return Difference(*at, "trace", where, layer_of(node), first, *numbers)
        return None


class _Traced(fx.Interpreter):
    """The traced module, operation by operation."""

    def __init__(self, root: torch.nn.Module, graph: fx.Graph) -> None:
        super().__init__(fx.GraphModule(root, graph))
        self.found: list[tuple[fx.Node, Tensor]] = []

    def values(self, named: dict[str, Tensor]) -> list[tuple[fx.Node, Tensor]]:
        """Each operation that gives a tensor, with it. Names are those of placeholders."""
        missing = torch.zeros(())
        nodes = [node for node in self.module.graph.nodes if node.op == "placeholder"]  # type: ignore[union-attr]
        with torch.no_grad():
            self.run(*(named.get(node.name, missing) for node in nodes))
        return self.found

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "call_function" and isinstance(result, Tensor):
            self.found.append((n, result))
        return result


def graph_parameters(compiled: Compiled, conditions: Conditions, images: Tensor, order: Order) -> Tensor:
    """The parameters that a compiled model's graph gives on finished images: float64 (2, H, W, C, P).

    Args:
        images: two of them, integers (2, H, W, C), as the user sees them.
        order: of generation; the graph stands over the image reordered by it.
    """
    graph = compiled.analysis.graph
    nodes = _evaluated(graph, compiled, conditions, images, order)
    channels = []
    for edges in graph.outputs:
        parts = []
        for edge in edges:
            domain = graph.nodes[edge.source].domain
            here = graph.image.shifted(edge.row - domain.row0, edge.col - domain.col0)
            part = nodes[edge.source][:, here.row0 : here.row1, here.col0 : here.col1]
            parts.append(part[..., torch.from_numpy(edge.channels)])
        channels.append(torch.cat(parts, -1))
    return torch.from_numpy(order.restored(torch.stack(channels, 3).numpy(), 1).copy())


def _evaluated(graph: Graph, compiled: Compiled, conditions: Conditions, images: Tensor, order: Order) -> list[Tensor]:
    """Every node of a graph over the image reordered by an order, on images (2, H, W, C)."""
    fields = tuple(
        Field(spec.shape[3], spec.row0, spec.col0, spec.shape[1], spec.shape[2], spec.value) for spec in graph.fields
    )
    whole = replace(compiled, program=replace(compiled.program, fields=fields), field_specs=graph.fields)
    numbers = evaluate_fields(whole, conditions, IMAGES)
    view = torch.from_numpy(order.reordered(images.numpy(), 1).copy())
    return evaluate_nodes(graph.nodes, graph.fields, numbers, view)


def probing(program: Program, number: int, first: int) -> Program:
    """The same program, whose parameters are what instruction `number` wrote, its channels from `first` on, right after it ran.

    They are 0 in steps before the instruction's own, and at pixels at which it does not run. Only calls in which all values are
    given end in the same images.
    """
    _, height, width = program.shape
    image, buffer = Rect(0, height, 0, width), len(program.buffers)
    instruction = program.instructions()[number]
    count = min(program.parameters, instruction.out.count - first)
    source = replace(instruction.out, channel=instruction.out.channel + first, count=count)
    inside = Rect(
        max(instruction.rect.row0, 0), min(instruction.rect.row1, height),
        max(instruction.rect.col0, 0), min(instruction.rect.col1, width),
    )  # fmt: skip
    rect = Rect(0, 0, 0, 0) if inside.empty else instruction.lattice.within(inside)
    blank = Instruction(Slot(buffer, 0, program.parameters), Map((0.0,), ()), image)
    copy = Instruction(Slot(buffer, 0, count), Map((source,), ()), rect, "", instruction.lattice, instruction.sweep)
    lists = [list(program.row), *map(list, program.steps)]
    own, index = 0, number
    while index >= len(lists[own]):
        own, index = own + 1, index - len(lists[own])
    if not rect.empty:
        lists[own].insert(index + 1, copy)
    lists[min(own, 1)].insert(0, blank)
    return replace(
        program,
        buffers=(*program.buffers, Buffer("probe", program.parameters, 1, (0, width), image)),
        row=tuple(lists[0]),
        steps=tuple(map(tuple, lists[1:])),
        draws=tuple(Draw(draw.channel, Slot(buffer, 0, program.parameters)) for draw in program.draws),
    )


def _numbers(table: ElementTable, numbers: Tensor, nodes: list[Tensor]) -> Tensor:
    """What the elements of a traced tensor hold, by the nodes that they come from; anything where there is none."""
    place = table.places(numbers.numpy())
    result = torch.zeros(numbers.shape, dtype=torch.float64)
    for node in np.unique(place.node[place.known]):
        mine = place.known & (place.node == node)
        row0, col0 = table.corner(int(node))
        index = place.image[mine], place.row[mine] - row0, place.col[mine] - col0, place.feature[mine]
        result[torch.from_numpy(mine)] = nodes[node][tuple(torch.from_numpy(part) for part in index)]
    return result


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """Where numbers differ by more than rounding."""
    one, other = one.double(), other.double()
    finite = other[other.isfinite()]
    spread = float(finite.std(correction=0)) if finite.numel() else 1.0
    scale = max(spread, 1e-2 * float(finite.abs().max()) if finite.numel() else 0.0, 1e-6)
    same = (one == other) | (one.isnan() & other.isnan())
    return ~same & ((one - other).abs().nan_to_num(torch.inf) > APART * scale)
