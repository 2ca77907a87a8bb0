"""Convert: a captured ATen graph becomes nodes over the image grid.

What does not depend on the image is computed at once (weights, constants) or moves into the condition graph, which runs in
PyTorch once for each call. Everything else has a rule, registered under its operator's name (`trace.rules`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from ..distributions.base import Head
from ..errors import UnsupportedModel
from ..host.forking import pause
from ..ir.scan_order import RASTER, Order
from .capture import Capture, layer_of
from .context import Context
from .index import written_out
from .nodes.base import Provenance
from .nodes.builder import GraphBuilder
from .rules import RULES
from .scores import Products
from .values import Value, constant_part, shape_of, values_in

aten = torch.ops.aten

Watch = Callable[[fx.Node, Any], None]


@dataclass(frozen=True)
class Converted:
    """A builder full of nodes over the reordered image, the output tensor, and the graph that turns conditions into fields."""

    builder: GraphBuilder
    output: Value
    shape: tuple[int, ...]
    conditions: fx.GraphModule | None
    order: Order = RASTER


def convert(
    capture: Capture, shape: tuple[int, int, int], head: Head, order: Order = RASTER, watch: Watch | None = None
) -> Converted:
    """Convert a captured graph. Its nodes stand over the image reordered by `order`, of which the module gets the user's view.

    The graph's constants are taken out of it. `watch` is shown each operation and what became of it.

    Raises:
        UnsupportedModel: an operation that no rule covers, named with its layer.
        NotAutoregressive: statistics over the whole image or batch.
    """
    return Converter(capture, shape, head, order).run(watch)


class Converter:
    """Walks over the ATen graph, and gives the context what rules need to know of each operation."""

    def __init__(self, capture: Capture, shape: tuple[int, int, int], head: Head, order: Order) -> None:
        self.capture = capture
        self.shape, self.order = shape, order
        self.head = head
        self.context = Context(GraphBuilder(order.shape(shape), head.levels), RULES)
        self.values: dict[fx.Node, Any] = {}

    def run(self, watch: Watch | None = None) -> Converted:
        last = _last_reads(self.capture.graph)
        for node in self.capture.graph.nodes:
            pause()
            self.context.at = Provenance(node.name, layer_of(node), _is_wide(node))
            if node.op == "placeholder" and node.users:
                self.values[node] = self.placeholder(node)
            elif node.op == "get_attr":
                self.values[node] = Value(None, operator.attrgetter(node.target)(self.capture.root))
            elif node.op == "call_function":
                self.values[node] = self.step(node)
            if watch is not None and node in self.values:
                watch(node, self.values[node])
            if node.name == self.capture.result:
                output = self.values[node]
            for read in last[node]:  # element numbers of large models fill the memory otherwise
                self.values.pop(read, None)
        return self.converted(output)

    def converted(self, output: Any) -> Converted:
        """All that was made, once the module's output is known."""
        c, outputs = self.context, self.context.builder.outputs
        if isinstance(output, Products):
            raise UnsupportedModel(f"the model's output is made of {output.name()}, not of features of its pixels")
        if output.dynamic is not None and output.numbers is not None:
            output = c.regular(output)
        elif output.dynamic is not None and output.dynamic not in outputs:
            outputs.append(output.dynamic)
        if outputs:
            c.condition_graph.output(tuple(outputs))
        module = fx.GraphModule(c.condition_root, c.condition_graph) if outputs else None
        return Converted(c.builder, output, shape_of(output), module, self.order)

    # ---------------------------------------------------------------- walking

    def placeholder(self, node: fx.Node) -> Value:
        if node.name in self.capture.constants:
            # Large models fill the memory with weights otherwise: they are let go when they have been read for the last time.
            return Value(None, self.capture.constants.pop(node.name))
        if node.name == self.capture.image:
            numbers = self.context.builder.input(self.head.table(self.shape))
            if self.order == RASTER:
                return Value(numbers, kind=self.capture.example.dtype)
            restored = self.order.restored(written_out(numbers).numpy(), 2).copy()
            return Value(torch.from_numpy(restored), kind=self.capture.example.dtype)
        index = self.capture.conditions.index(node.name)
        dynamic = self.context.condition_graph.placeholder(f"condition_{index}")
        return Value(None, self.capture.example_conditions[index], dynamic)

    def step(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            source, index = node.args
            return self.values[source][index]  # type: ignore[index]
        args = fx.node.map_arg(node.args, lambda n: self.values[n])
        kwargs = fx.node.map_arg(node.kwargs, lambda n: self.values[n])
        if not isinstance(node.target, torch._ops.OpOverload):  # Python's arithmetic, on numbers that `.item()` gave
            return node.target(*args, **kwargs)  # type: ignore[operator]
        if any(value.numbers is not None for value in values_in((args, kwargs))):
            _refuse_loops(node)
            _refuse_narrow(node, self.context.at)
        return self.typed(self.context.call(node.target, args, kwargs), node.meta.get("val"))

    def typed(self, result: Any, example: Any) -> Any:
        """A result whose constants have the type that it has in the module."""
        if isinstance(result, (tuple, list)) and isinstance(example, (tuple, list)):
            return [self.typed(*pair) for pair in zip(result, example, strict=False)]  # rules leave out what nobody reads
        if not isinstance(result, Value) or not isinstance(example, Tensor) or result.dtype == example.dtype:
            return result
        if result.const is None:
            return replace(result, kind=example.dtype)
        constant = self.context.fold(aten._to_copy.default, (constant_part(result),), {"dtype": example.dtype})
        return Value(result.numbers, constant.const, constant.dynamic)


def _types_of(nodes: Iterable[fx.Node]) -> set[torch.dtype]:
    """Types of the tensors that nodes give."""
    return {val.dtype for node in nodes for val in [node.meta.get("val")] if isinstance(val, Tensor)}


def _is_wide(node: fx.Node) -> bool:
    """Whether an operation computes in float64: what it gives is that, or is no floating-point number made of that."""
    given = _types_of([node])
    narrow = any(dtype.is_floating_point for dtype in given)
    return torch.float64 in (given if narrow else _types_of(node.all_input_nodes))


def _refuse_narrow(node: fx.Node, at: Provenance) -> None:
    """Refuse what computes with fewer digits than the engines."""
    for dtype in _types_of([node]) & {torch.float16, torch.bfloat16}:
        raise UnsupportedModel(
            f"{at} computes in {dtype}; pixelfast traces modules that compute in float32 or float64: sample model.float(), "
            'without autocast in its forward, or the module as it is, slowly, with engine="naive"'
        )


def _refuse_loops(node: fx.Node) -> None:
    """Refuse what PyTorch's recurrent layers become when they are traced, at the first operation that the image enters.

    Each of their steps is traced by itself, at an element of its own: thousands of operations, of which none says that they are
    one recurrence. A cell that is called once is no loop.
    """
    for call, (path, kind) in (node.meta.get("nn_module_stack") or {}).items():
        module, _, name = str(kind).rpartition(".")
        if module == "torch.nn.modules.rnn" and (name in ("RNN", "LSTM", "GRU") or "@" in call):
            layer = path.removeprefix("module").removeprefix(".")
            raise UnsupportedModel(
                f"the layer {layer!r} (nn.{name}) runs over the pixels step by step, which is not supported: "
                'write an LSTM over pixels with pixelfast.lstm_scan, which is one operation; engine="naive" samples it, slowly'
            )


def _last_reads(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """For each node, those that nothing reads after it."""
    reader = {read: node for node in graph.nodes for read in (node, *node.all_input_nodes)}
    last: dict[fx.Node, list[fx.Node]] = {node: [] for node in graph.nodes}
    for node, final in reader.items():
        last[final].append(node)
    return last
