"""The pipeline: module -> capture -> graph -> schedule -> program, one line for each stage."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, fx, nn

from .causality.availability import availability, leak_count
from .causality.leak_report import find_leak
from .distributions.base import Head
from .errors import InvalidInput, NotAutoregressive, UnsupportedModel, described
from .host.forking import pause, refuse_half_way
from .host.surroundings import same_randomness
from .inputs.conditions import Conditions
from .ir.graph import FieldSpec, Graph
from .ir.program import Program
from .ir.scan_order import ORDERS, RASTER, Order
from .ir.schedule import Schedule
from .lowering.lower import lower
from .ops.times import Times
from .passes.reorder import reordered
from .passes.scheduler import is_regular, schedule
from .passes.simplify import prune, simplify
from .trace.capture import Capture, capture
from .trace.convert import Converted, convert
from .trace.index import IMAGES
from .trace.output import OutputLayout, ambiguous, bind, candidates, elements, unbound

REPEATS_BELOW = 64
"""Conditions of at most this many numbers for each image (labels, small vectors) are evaluated once for each value."""
ALIKE = 1e-4
"""How far each number of an image's fields may move, relative to it, when another image is evaluated with it."""


@dataclass(frozen=True)
class Analysis:
    """A traced model whose output is read in one layout, and where it sees what it predicts, if it does.

    Attributes:
        frame: how the image was reordered for the nodes that the trace made; the graph is reordered to raster order.
    """

    graph: Graph
    times: list[Times]
    layout: OutputLayout
    condition_graph: fx.GraphModule | None
    leak: NotAutoregressive | None = None
    frame: Order = RASTER


@dataclass(frozen=True)
class Compiled:
    """Everything that sampling needs besides an engine.

    Attributes:
        independent: of one entry as soon as two images with different conditions were seen not to change each other's fields.
    """

    analysis: Analysis
    schedule: Schedule
    program: Program
    field_specs: tuple[FieldSpec, ...]
    independent: list[bool] = field(default_factory=list)


@same_randomness()
def analyse(
    module: nn.Module, shape: tuple[int, int, int], head: Head, conditions: Conditions, order: Order = RASTER
) -> Analysis:
    """Trace a frozen module that draws in some order, and choose the layout of its output.

    Raises:
        InvalidInput: no layout fits the output, or several do and causality does not decide between them.
        NotAutoregressive, UnsupportedModel: see `trace.capture` and `trace.convert`.
    """
    captured = capture(module, shape, head, conditions)
    frames = _frames(captured, order)
    irregular: Analysis | None = None
    refused: UnsupportedModel | NotAutoregressive | None = None
    for frame in frames:
        constants = captured.constants if frame == frames[-1] else dict(captured.constants)  # converting uses them up
        try:
            converted = convert(replace(captured, constants=constants), shape, head, frame)
            analysis = choose_layout(converted, shape, head, order)
        except (UnsupportedModel, NotAutoregressive) as error:
            refused = refused or error
            continue
        if analysis.leak is not None or is_regular(analysis.graph):
            return analysis
        irregular = irregular or analysis
    if irregular is not None:
        return irregular
    assert refused is not None
    if order == RASTER or isinstance(refused, NotAutoregressive):
        raise refused
    raise UnsupportedModel(f"{refused}. The order is {order.name!r}: is it the model's?") from refused


def _frames(captured: Capture, order: Order) -> list[Order]:
    """How a module may turn its image before it works on it: as it is, then in the order of drawing, then in any other way.

    A module is regular only where its own flips and transpositions are undone. On an axis of two or three pixels a flip
    may pass for an upsampling, which then has no schedule.
    """
    names = {node.target._schema.name.split("::")[-1] for node in captured.graph.nodes if hasattr(node.target, "_schema")}
    flips, transposes = bool(names & {"flip", "index", "index_select", "gather"}), bool(names & {"permute", "transpose", "t"})
    result = [RASTER] if order == RASTER else [RASTER, order]
    for frame in ORDERS.values():
        if frame not in result and (flips or not (frame.up or frame.left)) and (transposes or not frame.columns):
            result.append(frame)
    return result


def compile_program(analysis: Analysis, head: Head) -> Compiled:
    """Schedule and lower a model that is autoregressive.

    Raises:
        NotAutoregressive: the model sees what it predicts.
        UnsupportedModel: no regular schedule exists.
    """
    if analysis.leak is not None:
        raise analysis.leak
    pause()
    planned = schedule(analysis.graph)
    program, field_specs = lower(planned, head)
    return Compiled(analysis, planned, program, field_specs)


def choose_layout(converted: Converted, shape: tuple[int, int, int], head: Head, order: Order = RASTER) -> Analysis:
    """Bind the output in the one layout that fits by shape and by causality, and reorder the graph to the order of drawing.

    A layout in which the output is irregular (its features lie at no fixed offsets) counts as well, unless its elements are
    seen to leak: a model is never read in another layout because the one that is meant is refused.

    Raises:
        AmbiguousLayout: several layouts are autoregressive.
        UnsupportedModel: the one that is autoregressive, or each that fits, is irregular.
    """
    left = order.after(converted.order)  # what conversion has not reordered
    found: list[Analysis] = []
    irregular: list[tuple[OutputLayout, UnsupportedModel]] = []
    for layout in candidates(converted.shape, IMAGES, shape, head):
        pause()
        try:
            graph = simplify(reordered(bind(converted, layout), left))
        except UnsupportedModel as error:
            irregular.append((layout, error))
            continue
        times = availability(graph)
        found.append(Analysis(graph, times, layout, converted.conditions, frame=converted.order))
    if not found:
        raise irregular[-1][1]
    causal = [analysis for analysis in found if leak_count(analysis.graph, analysis.times) == 0]
    times = availability(reordered(unbound(converted), left)) if irregular else []
    refused = [(layout, error) for layout, error in irregular if not _leaks(converted, layout, left, times)]
    layouts = [analysis.layout for analysis in causal] + [layout for layout, _ in refused]
    if len(layouts) > 1:
        raise ambiguous(converted.shape, layouts, "and all are autoregressive")
    if refused:
        raise refused[0][1]
    if causal:
        return causal[0]
    # None is autoregressive: the layout with the fewest leaks tells the user most.
    closest = min(found, key=lambda analysis: leak_count(analysis.graph, analysis.times))
    # Before layers are merged, every node still belongs to one of the user's layers.
    unmerged = prune(reordered(bind(converted, closest.layout), left))
    seen = find_leak(unmerged, availability(unmerged), order)
    leak = seen or find_leak(closest.graph, closest.times, order)
    return replace(closest, leak=leak)


def _leaks(converted: Converted, layout: OutputLayout, order: Order, times: list[Times]) -> bool:
    """Whether, in a layout that no edges can hold, some parameter depends on its own or a later sub-pixel, or another image.

    Args:
        times: of the nodes, in the graph that `order` has reordered.
    """
    if converted.output.numbers is None:
        return False
    found = elements(converted, layout)
    if found is None:
        return True
    channels, height, width = converted.builder.shape
    before = order.ranks(height, width)[..., None] * channels + np.arange(channels).repeat(layout.parameters)
    lines, pixels = order.position(found.row, found.col, height, width)
    for node in np.unique(found.node[found.known]):
        chosen = found.known & (found.node == node)
        domain = times[node].domain
        feature, line, pixel = times[node].classes[found.feature[chosen]], lines[chosen], pixels[chosen]
        seen = times[node].maps[feature, line - domain.row0, pixel - domain.col0]
        if (seen >= np.broadcast_to(before, chosen.shape)[chosen]).any():
            return True
    return False


def evaluate_fields(compiled: Compiled, conditions: Conditions, n: int) -> tuple[np.ndarray, ...]:
    """The numbers of every field of a program for the n images of a call: float32 (N or 1, rows, cols, F).

    Raises:
        InvalidInput: the module cannot use the conditions.
        UnsupportedModel: what it computes from those of one image depends on those of another.
    """
    analysis = compiled.analysis
    outputs: list[Tensor] = []
    image = torch.zeros(n, dtype=torch.int64)
    if analysis.condition_graph is not None:
        distinct, image = _distinct(conditions, n)
        count = int(image.max()) + 1
        outputs = _run_conditions(analysis.condition_graph, distinct, count)
        if count > 1 and not compiled.independent:
            _check_independent(analysis.condition_graph, compiled.field_specs, outputs, distinct, count)
            compiled.independent.append(True)
    result = []
    for known, spec in zip(compiled.program.fields, compiled.field_specs, strict=True):
        if known.value is not None:
            result.append(known.value)
            continue
        assert spec.index is not None
        index = torch.from_numpy(spec.index)  # (1 or 2, rows, cols, F) into the output for two images
        values = outputs[spec.output][:, index.clamp_min(0)].where(index >= 0, 0.0)  # (pairs, 1 or 2, rows, cols, F)
        per_image = values[0, :1] if len(index) == 1 else values.reshape(-1, *index.shape[1:])[image]
        result.append(np.ascontiguousarray(per_image.numpy()))
    return tuple(result)


def _distinct(conditions: Conditions, n: int) -> tuple[Conditions, Tensor]:
    """The conditions of images that differ, and for each of n images which of them it has: labels repeat."""
    own = [tensor.detach().cpu() for _, tensor in conditions.tensors() if tensor.dim() and len(tensor) == n > 1]
    if not own:
        return conditions.rows(torch.tensor([0]), n), torch.zeros(n, dtype=torch.int64)
    if sum(tensor[0].numel() for tensor in own) > REPEATS_BELOW:
        return conditions, torch.arange(n)
    # By their bytes: integers beyond 2**53 and imaginary parts have no place in a common type.
    rows = zip(*(tensor.contiguous().reshape(n, -1).view(torch.uint8).numpy() for tensor in own), strict=True)
    numbers: dict[tuple[bytes, ...], int] = {}
    image = torch.tensor([numbers.setdefault(tuple(part.tobytes() for part in row), len(numbers)) for row in rows])
    first = torch.full((len(numbers),), n).scatter_reduce(0, image, torch.arange(n), "amin")
    return conditions.rows(first, n), image


@same_randomness()
def _run_conditions(graph: fx.GraphModule, conditions: Conditions, n: int) -> list[Tensor]:
    """Outputs of the condition graph for images two by two: for each output float32 (pairs, elements)."""
    refuse_half_way()
    results: list[list[Tensor]] = []
    for first in range(0, n, 2):
        pause()
        rows = torch.tensor([first, min(first + 1, n - 1)])
        pair = conditions.rows(rows, n)
        try:
            with torch.no_grad():
                outputs = graph(*(tensor.detach().cpu() for _, tensor in pair.tensors()))
        except Exception as error:  # what the module itself checks was left behind with the trace
            found = ", ".join(f"{name} {_summary(tensor)}" for name, tensor in conditions.tensors())
            raise InvalidInput(f"the model cannot use these conditions ({found}): {described(error)}") from error
        results.append([output.reshape(-1).float() for output in outputs])
    return [torch.stack(column) for column in zip(*results, strict=True)]


def _check_independent(
    graph: fx.GraphModule, specs: tuple[FieldSpec, ...], outputs: list[Tensor], conditions: Conditions, n: int
) -> None:
    """Raise UnsupportedModel unless each of the first two of n images has the same fields beside a copy of itself.

    Args:
        outputs: of the condition graph for these two, and any further ones, as `_run_conditions` gives them.
    """
    for image in (0, 1):
        copies = _run_conditions(graph, conditions.rows(torch.tensor([image, image]), n), 2)
        for spec in specs:
            if spec.index is None:
                continue
            index = torch.from_numpy(spec.index[min(image, len(spec.index) - 1)])
            together, alone = (found[spec.output][0, index[index >= 0]] for found in (outputs, copies))
            if not torch.allclose(together, alone, rtol=ALIKE, atol=1e-2 * ALIKE, equal_nan=True):
                raise UnsupportedModel(
                    "what the model computes from the conditions of one image depends on those of the others in its batch (a "
                    "mean over the first axis, a difference of its entries?), so that an image would depend on which others "
                    "are drawn with it. Compute that outside of the model, and pass the result as a condition; "
                    'engine="naive" runs the model on each batch as it is'
                )


def _summary(tensor: Tensor) -> str:
    """Shape, type and range of a tensor."""
    span = f" from {tensor.min().item():g} to {tensor.max().item():g}" if tensor.numel() and not tensor.is_complex() else ""
    return f"{tuple(tensor.shape)} {tensor.dtype}{span}"
