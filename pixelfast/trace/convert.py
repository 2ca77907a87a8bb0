"""Convert: a captured ATen graph becomes nodes over the image grid.

What does not depend on the image is computed here (weights, constants) or moves into the condition graph, which runs in
PyTorch once for each call. Layout operations run on element numbers. Everything else is one of the builder's nodes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..distributions.base import Head
from ..errors import NotAutoregressive, UnsupportedModel
from ..host.forking import pause
from ..ir.program import Op
from ..ir.scan_order import RASTER, Order
from . import attention
from .capture import Capture
from .expressions import EXPRESSIONS, Expression, expression, linearise
from .index import IMAGES, all_elements, reshaped, written_out
from .layout_types import Layout
from .nodes.base import Provenance
from .nodes.builder import GraphBuilder
from .rules import channels as rules_channels
from .rules import pointwise as rules_pointwise
from .rules import pools as rules_pools
from .rules import products as rules_products
from .rules import scans as rules_scans
from .values import Value, constant_part, constants, mixed, replace_values, shape_of, values_in

aten = torch.ops.aten

LAYOUT = {
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "slice", "select",
    "clone", "alias", "detach", "lift_fresh_copy", "split_with_sizes", "split", "cat", "stack", "unbind", "flip", "roll",
    "repeat", "slice_scatter", "select_scatter", "copy", "constant_pad_nd", "index", "index_select", "diagonal", "unfold",
    "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "_unsafe_index", "index_put", "upsample_nearest2d", "gather",
}  # fmt: skip
"""Operations that move elements and compute nothing."""

RESHAPES = {"view", "_unsafe_view", "reshape"}
COPIES = {"clone", "alias", "detach", "lift_fresh_copy"}
VIEWS = {"permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "slice", "select", "split_with_sizes", "split",
         "unbind", "diagonal", "unfold"}  # fmt: skip
"""Layout operations that are views of one tensor, which stepped numbers follow without being written out."""

SHAPE_ONLY = {"full_like", "zeros_like", "ones_like", "empty_like", "new_full", "new_zeros", "new_ones", "new_empty", "fill",
              "zero"}  # fmt: skip
"""Operations that look at the shape of their first argument, not at its values."""

INDICES = {"index": 1, "_unsafe_index": 1, "index_put": 1, "index_select": 2, "gather": 2}
"""Layout operations that take places from a tensor, and the argument that holds it."""

RULES: dict[str, Callable[..., Any]] = {
    "convolution": rules_products.convolution,
    "mm": rules_products.mm,
    "addmm": rules_products.addmm,
    "bmm": rules_products.bmm,
    "baddbmm": rules_products.baddbmm,
    "embedding": rules_products.embedding,
    "native_layer_norm": rules_channels.layer_norm,
    "mean": rules_channels.reduction("mean"),
    "sum": rules_channels.reduction("sum"),
    "amax": rules_channels.reduction("amax"),
    "amin": rules_channels.reduction("amin"),
    "logsumexp": rules_channels.reduction("logsumexp"),
    "var": rules_channels.variance,
    "var_mean": rules_channels.variance_and_mean,
    "linalg_vector_norm": rules_channels.vector_norm,
    "_log_softmax": rules_channels.log_softmax,
    "_softmax": rules_channels.softmax,
    "_native_batch_norm_legit_no_training": rules_pointwise.batch_norm,
    "native_batch_norm": rules_pointwise.native_batch_norm,
    "_to_copy": rules_pointwise.to_copy,
    "masked_fill": rules_pointwise.masked_fill,
    "where": rules_pointwise.where,
    "mul": rules_pointwise.mul,
    "lstm_scan": rules_scans.lstm_scan,
    "avg_pool2d": rules_pools.average,
    "max_pool2d_with_indices": rules_pools.largest,
}
"""Operations with a rule of their own, called with the converter, the ATen target and the node's arguments."""

STATISTICS = {"native_group_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional"}

Watch = Callable[[fx.Node, Any], None]


@dataclass(frozen=True)
class Converted:
    """A builder full of nodes over the turned image, the output tensor, and the graph that turns conditions into fields."""

    builder: GraphBuilder
    output: Value
    shape: tuple[int, ...]
    conditions: fx.GraphModule | None
    order: Order = RASTER


def convert(
    capture: Capture, shape: tuple[int, int, int], head: Head, order: Order = RASTER, watch: Watch | None = None
) -> Converted:
    """Convert a captured graph. Its nodes stand over the image turned by `order`, of which the module gets the user's view.

    The graph's constants are taken out of it. `watch` is shown each operation and what became of it.

    Raises:
        UnsupportedModel: an operation that no rule covers, named with its layer.
        NotAutoregressive: statistics over the whole image or batch.
    """
    return Converter(capture, shape, head, order).run(watch)


class Converter:
    """Walks over the ATen graph; rules for single operations take it as their first argument."""

    def __init__(self, capture: Capture, shape: tuple[int, int, int], head: Head, order: Order) -> None:
        self.capture = capture
        self.shape, self.order = shape, order
        self.builder = GraphBuilder(order.shape(shape), head.levels)
        self.head = head
        self.env: dict[fx.Node, Any] = {}
        self.condition_graph = fx.Graph()
        self.condition_root = nn.Module()
        self.at = Provenance("", "")

    def run(self, watch: Watch | None = None) -> Converted:
        last = _last_reads(self.capture.graph)
        for node in self.capture.graph.nodes:
            pause()
            self.at = Provenance(node.name, layer_of(node), _is_wide(node))
            if node.op == "placeholder" and node.users:
                self.env[node] = self.placeholder(node)
            elif node.op == "get_attr":
                self.env[node] = Value(None, operator.attrgetter(node.target)(self.capture.root))
            elif node.op == "call_function":
                self.env[node] = self.step(node)
            if watch is not None and node in self.env:
                watch(node, self.env[node])
            if node.name == self.capture.result:
                output = self.env[node]
            for read in last[node]:  # element numbers of large models fill the memory otherwise
                self.env.pop(read, None)
        if isinstance(output, attention.Products):
            raise UnsupportedModel(f"the model's output is made of {output.name()}, not of features of its pixels")
        if output.dynamic is not None and output.numbers is not None:
            output = self.regular(output)
        elif output.dynamic is not None and output.dynamic not in self.builder.outputs:
            self.builder.outputs.append(output.dynamic)
        if self.builder.outputs:
            self.condition_graph.output(tuple(self.builder.outputs))
        module = fx.GraphModule(self.condition_root, self.condition_graph) if self.builder.outputs else None
        return Converted(self.builder, output, shape_of(output), module, self.order)

    # ---------------------------------------------------------------- walking

    def placeholder(self, node: fx.Node) -> Value:
        if node.name in self.capture.constants:
            # Large models fill the memory with weights otherwise: they are let go when they have been read for the last time.
            return Value(None, self.capture.constants.pop(node.name))
        if node.name == self.capture.image:
            numbers = self.builder.input(self.head.table(self.shape))
            if self.order == RASTER:
                return Value(numbers, kind=self.capture.example.dtype)
            turned = self.order.restored(written_out(numbers).numpy(), 2).copy()
            return Value(torch.from_numpy(turned), kind=self.capture.example.dtype)
        index = self.capture.conditions.index(node.name)
        dynamic = self.condition_graph.placeholder(f"condition_{index}")
        return Value(None, self.capture.example_conditions[index], dynamic)

    def step(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            source, index = node.args
            return self.env[source][index]  # type: ignore[index]
        args = fx.node.map_arg(node.args, lambda n: self.env[n])
        kwargs = fx.node.map_arg(node.kwargs, lambda n: self.env[n])
        if not isinstance(node.target, torch._ops.OpOverload):  # Python's arithmetic, on numbers that `.item()` gave
            return node.target(*args, **kwargs)  # type: ignore[operator]
        if any(value.numbers is not None for value in values_in((args, kwargs))):
            rules_scans.refuse_loops(self, node)
            _refuse_narrow(node, self.at)
        return self.typed(self.call(node.target, args, kwargs), node.meta.get("val"))

    def typed(self, result: Any, example: Any) -> Any:
        """A result whose constants have the type that it has in the module."""
        if isinstance(result, (tuple, list)) and isinstance(example, (tuple, list)):
            return [self.typed(*pair) for pair in zip(result, example, strict=False)]  # rules leave out what nobody reads
        if not isinstance(result, Value) or not isinstance(example, Tensor) or result.dtype == example.dtype:
            return result
        if result.const is None:
            return replace(result, kind=example.dtype)
        constant = self.fold(aten._to_copy.default, (constant_part(result),), {"dtype": example.dtype})
        return Value(result.numbers, constant.const, constant.dynamic)

    def call(self, target: Any, args: Any, kwargs: Any) -> Any:
        """What an operation gives."""
        name = _name(target)
        if products := attention.products_in((args, kwargs)):
            if name not in SHAPE_ONLY:
                return attention.follow(self, target, name, args, kwargs)
            args = (Value(None, torch.zeros(products[0].numbers.shape)), *args[1:])
        values = values_in((args, kwargs))
        if all(value.numbers is None for value in values):
            return self.fold(target, args, kwargs)
        if name in SHAPE_ONLY and not any(value.numbers is not None for value in values_in((args[1:], kwargs))):
            return self.fold(target, (Value(None, torch.zeros(args[0].shape, dtype=args[0].dtype)), *args[1:]), kwargs)
        if name in LAYOUT:
            return self.layout(target, args, kwargs)
        if name in RULES:
            return RULES[name](self, target, *args, **kwargs)
        if name in EXPRESSIONS:
            return self.pointwise(target, name, args, kwargs)
        if name in STATISTICS:
            raise self.statistics(name)
        if name == "as_strided":
            raise UnsupportedModel(
                f"{self.at}: as_strided reads values of the image by their places in memory, which a trace does not keep: use "
                'view, permute or unfold; engine="naive" samples such a model, slowly'
            )
        raise UnsupportedModel(
            f"the operation {target} at {self.at} is not supported on values that depend on the image. "
            'engine="naive" samples such a model, slowly; docs/architecture.md says how an operation is added'
        )

    def fold(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Compute what does not depend on the image, and record it where it depends on conditions."""
        target = _anyhow(target)
        result = target(*replace_values(args, lambda value: value.const), **replace_values(kwargs, lambda value: value.const))
        dynamic = None
        if any(value.dynamic is not None for value in values_in((args, kwargs))):
            dynamic = self.record(target, args, kwargs)
        return self.wrapped(result, dynamic)

    def wrapped(self, result: Any, dynamic: fx.Node | None) -> Any:
        """What an operation over constants gave, as values; `dynamic` gives the same in the condition graph."""
        if isinstance(result, (tuple, list)):
            return [self.wrapped(item, self.item(dynamic, i)) for i, item in enumerate(result)]
        if isinstance(result, Tensor):
            return Value(None, result, dynamic)
        if dynamic is not None and result is not None:
            raise UnsupportedModel(
                f"{self.at}: the module reads a Python number from its conditions (.item(), int(), float()), which the trace "
                "would keep for all later calls: compute with the tensor itself, or pass a Python number as the condition. "
                'engine="naive" samples such a model, slowly'
            )
        return result

    def item(self, dynamic: fx.Node | None, index: int) -> fx.Node | None:
        """An item of what a node of the condition graph gives."""
        return None if dynamic is None else self.condition_graph.call_function(operator.getitem, (dynamic, index))

    def record(self, target: Any, args: Any, kwargs: Any) -> fx.Node:
        """The same call in the condition graph."""

        def reference(value: Value) -> fx.Node:
            if value.dynamic is not None:
                return value.dynamic
            name = f"constant_{len(self.condition_root._buffers)}"  # buffers() counts what is there twice once
            self.condition_root.register_buffer(name, constants(value))
            return self.condition_graph.get_attr(name)

        return self.condition_graph.call_function(target, replace_values(args, reference), replace_values(kwargs, reference))

    def layout(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Move element numbers, and constants beside them, as the operation moves numbers."""
        name = _name(target)
        place = INDICES.get(name)
        indices = [] if place is None else values_in(args[place])
        moving = [value for value in values_in((args, kwargs)) if not any(value is index for index in indices)]
        if any(value.numbers is not None or value.dynamic is not None for value in indices):
            source = "the image" if any(value.numbers is not None for value in indices) else "conditions"
            raise UnsupportedModel(f"{self.at} indexes values of the image with numbers that depend on {source}: not supported")
        if name == "index_put" and (kwargs.get("accumulate") or args[3:] not in ((), (False,))):
            raise UnsupportedModel(f"{self.at}: index_put that accumulates is not supported; add two tensors instead")

        def numbers(value: Value) -> Tensor:
            if any(value is index for index in indices):
                return constants(value)
            if value.numbers is None:
                return torch.zeros(shape_of(value), dtype=torch.int64)
            return value.numbers if name in VIEWS | RESHAPES | COPIES else value.ids

        def moved(part: Callable[[Value], Tensor], args: Any) -> Any:
            if name in RESHAPES:
                return reshaped(part(args[0]), args[1])
            if name in COPIES:
                return part(args[0])
            return target(*replace_values(args, part), **replace_values(kwargs, part))

        # Padding an array of element numbers with any value but 0 would name an element: pad with 0, the constant.
        fill = args[2] if name == "constant_pad_nd" and len(args) > 2 else 0
        ids = moved(numbers, (*args[:2], 0) if name == "constant_pad_nd" else args)
        const, dynamic = None, None
        if fill != 0 or any(value.const is not None for value in moving):
            const = moved(constants, args)
            if any(value.dynamic is not None for value in moving):
                dynamic = self.record(_anyhow(target), *replace_values((args, kwargs), constant_part))
        kind = moving[0].dtype  # what has no constants would pass for float32 otherwise, within a rule
        if isinstance(ids, (tuple, list)):
            parts = const if const is not None else [None] * len(ids)
            return [replace(mixed(part, parts[i], self.item(dynamic, i)), kind=kind) for i, part in enumerate(ids)]
        return replace(mixed(ids, const, dynamic), kind=kind)

    # ---------------------------------------------------------------- pointwise

    def pointwise(self, target: Any, name: str, args: Any, kwargs: Any) -> Value:
        if all(value.numbers is None for value in values_in((args, kwargs))):
            return self.fold(target, args, kwargs)  # type: ignore[no-any-return]
        if name.startswith("bitwise") and any(value.dtype != torch.bool for value in values_in(args)):
            raise UnsupportedModel(f"{self.at}: {name} is supported on booleans only")
        operands: list[Value | float] = []

        def leaf(value: Value) -> tuple[str, int]:
            operands.append(value)
            return ("leaf", len(operands) - 1)

        plain = {k: v for k, v in kwargs.items() if v is not None and k not in ("dtype", "layout", "device", "pin_memory")}
        tree = expression(name, replace_values(args, leaf), replace_values(plain, leaf), str(self.at))
        return self.expression_value(tree, operands, lambda: self.constants_of(target, args, kwargs))

    def expression_value(
        self, tree: Expression, operands: list[Value | float], of_constants: Callable[[], Value]
    ) -> Value:
        """The value of an expression; `of_constants` gives the elements that no operand takes from the image."""
        ops, numbers = linearise(tree, len(operands))
        try:
            ids = self.builder.pointwise(self.at, [*operands, *numbers], ops)
        except UnsupportedModel as error:
            found = self.pointwise_by_image([*operands, *numbers], ops)
            if found is None:
                raise error from None
            ids = found
        if all_elements(ids):
            return Value(ids)
        constant = of_constants()
        return mixed(ids, constant.const, constant.dynamic)

    def pointwise_by_image(self, operands: list[Value | float], ops: list[Op]) -> Tensor | None:
        """A pointwise operation over a first axis in which images and heads are merged, either the slower; None if neither."""
        shape = torch.broadcast_shapes(*(shape_of(operand) for operand in operands if isinstance(operand, Value)))
        heads, odd = divmod(shape[0], IMAGES)
        for split in ((IMAGES, heads), (heads, IMAGES)) if heads > 1 and not odd else ():

            def parted(operand: Value | float, split: tuple[int, int] = split) -> Value | float:
                if not isinstance(operand, Value) or len(shape_of(operand)) < len(shape):
                    return operand
                first, *rest = shape_of(operand)
                return self.reshaped(operand, (*(split if first > 1 else (1, 1)), *rest))

            try:
                return reshaped(self.builder.pointwise(self.at, list(map(parted, operands)), ops), shape)
            except UnsupportedModel:
                continue
        return None

    def constants_of(self, target: Any, args: Any, kwargs: Any) -> Value:
        """The operation over the constant parts of its operands."""

        return self.fold(target, *replace_values((args, kwargs), constant_part))

    # ---------------------------------------------------------------- helpers

    def regular(self, x: Value, layout: Layout | None = None) -> Value:
        """The value with its constants as fields of nodes, wherever its layout has a place for them."""
        ids = self.builder.pointwise(self.at, [x], [], force=True, layout=layout)
        return mixed(ids, x.const, x.dynamic)

    def reshaped(self, x: Value, shape: tuple[int, ...]) -> Value:
        return self.layout(aten.view.default, (x, list(shape)), {})

    def add(self, a: Value, b: Value) -> Value:
        return self.pointwise(aten.add.Tensor, "add", (a, b), {})

    def statistics(self, name: str) -> NotAutoregressive:
        _, height, width = self.builder.shape
        return NotAutoregressive(
            f"not autoregressive: {name} at {self.at} takes statistics over rows, columns or images, so that every "
            f"prediction depends on the whole image of {height} x {width} pixels. Normalise over channels only "
            "(layer normalisation), or use batch normalisation in eval mode",
            layer=self.at.layer,
            node=self.at.name,
            offset=(height - 1, width - 1),
        )


def _name(target: Any) -> str:
    """An operation's ATen name without overload."""
    return str(target._schema.name.split("::")[-1])


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


def _anyhow(target: Any) -> Any:
    """An operation for constants, which need not lie in memory as they do in the module."""
    return aten.reshape.default if _name(target) in RESHAPES else target


def _last_reads(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """For each node, those that nothing reads after it."""
    reader = {read: node for node in graph.nodes for read in (node, *node.all_input_nodes)}
    last: dict[fx.Node, list[fx.Node]] = {node: [] for node in graph.nodes}
    for node, final in reader.items():
        last[final].append(node)
    return last


def layer_of(node: fx.Node) -> str:
    """The user's submodule that an operation belongs to, as in `named_modules()`."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()), ("", ""))[0] if stack else ""
    return path.removeprefix("module").removeprefix(".")
