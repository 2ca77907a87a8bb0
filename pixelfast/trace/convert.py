"""Convert: a captured ATen graph becomes nodes over the image grid.

What does not depend on the image is computed here (weights, constants) or moves into the condition graph, which runs in
PyTorch once for each call. Layout operations run on element numbers. Everything else is one of the builder's nodes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from ..errors import NotAutoregressive, UnsupportedModel
from ..heads import Head
from .builder import GraphBuilder, Origin, both_images
from .capture import Capture
from .elements import Layout, Value, infer_layout
from .pointwise import EXPRESSIONS, Expression, expression, linearise

aten = torch.ops.aten

LAYOUT = {
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "slice", "select",
    "clone", "alias", "detach", "lift_fresh_copy", "split_with_sizes", "split", "cat", "stack", "unbind", "flip", "roll",
    "repeat", "slice_scatter", "select_scatter", "copy", "constant_pad_nd", "index", "index_select", "diagonal", "unfold",
    "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "as_strided",
}  # fmt: skip
"""Operations that move elements and compute nothing."""

SHAPE_ONLY = {"full_like", "zeros_like", "ones_like", "empty_like", "new_full", "new_zeros", "new_ones", "new_empty"}
"""Operations that look at the shape of their argument, not at its values."""

STATISTICS = {"native_group_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional", "native_batch_norm"}


@dataclass(frozen=True)
class Converted:
    """A builder full of nodes, the output tensor, and the graph that turns conditions into fields."""

    builder: GraphBuilder
    output: Value
    shape: tuple[int, ...]
    conditions: fx.GraphModule | None


def convert(capture: Capture, shape: tuple[int, int, int], head: Head) -> Converted:
    """Convert a captured graph.

    Raises:
        UnsupportedModel: an operation that no rule covers, named with its layer.
        NotAutoregressive: statistics over the whole image or batch.
    """
    return _Converter(capture, shape, head).run()


class _Converter:
    def __init__(self, capture: Capture, shape: tuple[int, int, int], head: Head) -> None:
        self.capture = capture
        self.builder = GraphBuilder(shape, head.levels)
        self.head = head
        self.env: dict[fx.Node, Any] = {}
        self.condition_graph = fx.Graph()
        self.condition_root = nn.Module()
        self.at = Origin("", "")
        self.rules: dict[str, Callable[..., Any]] = {
            "convolution": self.convolution,
            "mm": self.mm,
            "addmm": self.addmm,
            "bmm": self.bmm,
            "embedding": self.embedding,
            "native_layer_norm": self.layer_norm,
            "_native_batch_norm_legit_no_training": self.batch_norm,
            "mean": self.reduction("mean"),
            "sum": self.reduction("sum"),
            "amax": self.reduction("amax"),
            "amin": self.reduction("amin"),
            "logsumexp": self.reduction("logsumexp"),
            "var": self.variance,
            "_log_softmax": self.log_softmax,
            "_softmax": self.softmax,
            "_to_copy": self.to_copy,
            "masked_fill": self.masked_fill,
            "where": self.where,
            "mul": self.mul,
        }

    def run(self) -> Converted:
        for node in self.capture.graph.nodes:
            self.at = Origin(node.name, _layer(node))
            if node.op == "placeholder":
                self.env[node] = self.placeholder(node)
            elif node.op == "get_attr":
                self.env[node] = Value(None, operator.attrgetter(node.target)(self.capture.root))
            elif node.op == "call_function":
                self.env[node] = self.step(node)
        output = next(self.env[node] for node in self.env if node.name == self.capture.result)
        if output.ids is None:
            raise UnsupportedModel("the model's output does not depend on the image: there is nothing to sample step by step")
        if self.builder.outputs:
            self.condition_graph.output(tuple(self.builder.outputs))
        module = fx.GraphModule(self.condition_root, self.condition_graph) if self.builder.outputs else None
        return Converted(self.builder, output, tuple(output.ids.shape), module)

    # ---------------------------------------------------------------- walking

    def placeholder(self, node: fx.Node) -> Value:
        if node.name in self.capture.constants:
            return Value(None, self.capture.constants[node.name])
        if node.name == self.capture.image:
            return Value(self.builder.input(self.head.table(self.builder.shape)))
        index = self.capture.conditions.index(node.name)
        dynamic = self.condition_graph.placeholder(f"condition_{index}")
        return Value(None, self.capture.example_conditions[index], dynamic)

    def step(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            source, index = node.args
            return self.env[source][index]  # type: ignore[index]
        name = node.target._schema.name.split("::")[-1]  # type: ignore[union-attr]
        if name.startswith("_assert"):
            return None
        args = fx.node.map_arg(node.args, lambda n: self.env[n])
        kwargs = fx.node.map_arg(node.kwargs, lambda n: self.env[n])
        values = _values((args, kwargs))
        if all(value.ids is None for value in values):
            return self.fold(node.target, args, kwargs)
        if name in SHAPE_ONLY:
            return self.fold(node.target, *_replace((args, kwargs), lambda value: Value(None, torch.zeros(_shape(value)))))
        if name in LAYOUT:
            return self.layout(node.target, args, kwargs)
        if name in self.rules:
            return self.rules[name](node.target, *args, **kwargs)
        if name in EXPRESSIONS:
            return self.pointwise(node.target, name, args, kwargs)
        if name in STATISTICS:
            raise self.statistics(name)
        raise UnsupportedModel(
            f"the operation {node.target} at {self.at} is not supported on values that depend on the image. "
            'engine="naive" samples such a model, slowly; docs/architecture.md says how an operation is added'
        )

    def fold(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Compute what does not depend on the image, and record it where it depends on conditions."""
        result = target(*_concrete(args), **_concrete(kwargs))
        values = _values((args, kwargs))
        dynamic = None
        if any(value.dynamic is not None for value in values):
            dynamic = self.record(target, args, kwargs)
        return _wrap(result, dynamic, self.condition_graph)

    def record(self, target: Any, args: Any, kwargs: Any) -> fx.Node:
        """The same call in the condition graph."""

        def reference(value: Value) -> fx.Node:
            if value.dynamic is not None:
                return value.dynamic
            name = f"constant_{len(list(self.condition_root.buffers()))}"
            assert value.const is not None
            self.condition_root.register_buffer(name, value.const)
            return self.condition_graph.get_attr(name)

        return self.condition_graph.call_function(target, _replace(args, reference), _replace(kwargs, reference))

    def layout(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Move element numbers, and constants beside them, as the operation moves numbers."""
        values = _values((args, kwargs))
        index_like = [v for v in values if v.ids is None and v.const is not None and not v.const.is_floating_point()]
        is_index = target in (aten.index.Tensor, aten.index_select.default)
        if is_index and any(value.ids is not None for value in values[1:]):
            raise UnsupportedModel(f"{self.at} indexes with values that depend on the image")

        def numbers(value: Value) -> Tensor:
            if is_index and any(value is v for v in index_like):
                assert value.const is not None
                return value.const
            return value.ids if value.ids is not None else torch.zeros(_shape(value), dtype=torch.int64)

        def constants(value: Value) -> Tensor:
            if value.const is not None:
                return value.const
            assert value.ids is not None
            return torch.zeros(value.ids.shape)

        # Padding an array of element numbers with any value but 0 would name an element: pad with 0, the constant.
        fill = args[2] if target is aten.constant_pad_nd.default and len(args) > 2 else 0
        number_args = (*args[:2], 0) if target is aten.constant_pad_nd.default else args
        if target in (aten.view.default, aten._unsafe_view.default):
            ids = numbers(args[0]).reshape(args[1])
        else:
            ids = target(*_replace(number_args, numbers), **_replace(kwargs, numbers))
        const, dynamic = None, None
        if fill != 0 or any(value.const is not None and value.ids is not None for value in values) or (
            not is_index and any(value.ids is None for value in values)
        ):
            if target in (aten.view.default, aten._unsafe_view.default):
                const = constants(args[0]).reshape(args[1])
            else:
                const = target(*_replace(args, constants), **_replace(kwargs, constants))
            if any(value.dynamic is not None for value in values):
                plain = _replace((args, kwargs), lambda v: v if v.const is not None else Value(None, constants(v)))
                dynamic = self.record(target, *plain)
        if isinstance(ids, (tuple, list)):
            parts = const if const is not None else [None] * len(ids)
            gets = [
                None if dynamic is None else self.condition_graph.call_function(operator.getitem, (dynamic, i))
                for i in range(len(ids))
            ]
            return [_value(*item) for item in zip(ids, parts, gets, strict=True)]
        return _value(ids, const, dynamic)

    # ---------------------------------------------------------------- pointwise

    def pointwise(self, target: Any, name: str, args: Any, kwargs: Any) -> Value:
        if name.startswith("bitwise") and any(v.const is not None and v.const.dtype != torch.bool for v in _values(args)):
            raise UnsupportedModel(f"{self.at}: {name} is supported on booleans only")
        operands: list[Value | float] = []

        def leaf(value: Value) -> tuple[str, int]:
            operands.append(value)
            return ("leaf", len(operands) - 1)

        plain = {k: v for k, v in kwargs.items() if v is not None and k not in ("dtype", "layout", "device", "pin_memory")}
        tree = expression(name, _replace(args, leaf), _replace(plain, leaf), str(self.at))
        return self.expression_value(tree, operands, lambda: self.constants_of(target, args, kwargs))

    def expression_value(
        self, tree: Expression, operands: list[Value | float], constants: Callable[[], Value] | None, force: bool = False
    ) -> Value:
        """The value of an expression; `constants` gives the elements that no operand takes from the image."""
        ops, numbers = linearise(tree, len(operands))
        ids = self.builder.pointwise(self.at, [*operands, *numbers], ops, force)
        if constants is None or bool((ids > 0).all()):
            return Value(ids)
        const = constants()
        assert const.const is not None
        kept = torch.where(ids > 0, torch.zeros((), dtype=const.const.dtype), const.const.expand(ids.shape))
        return _value(ids, kept, const.dynamic)

    def constants_of(self, target: Any, args: Any, kwargs: Any) -> Value:
        """The operation over the constant parts of its operands."""

        def constant(value: Value) -> Value:
            if value.const is not None:
                return Value(None, value.const, value.dynamic)
            assert value.ids is not None
            return Value(None, torch.zeros(value.ids.shape))

        return self.fold(target, *_replace((args, kwargs), constant))

    def to_copy(self, target: Any, x: Value, **kwargs: Any) -> Value:
        dtype = kwargs.get("dtype")
        if dtype in (torch.float16, torch.bfloat16):
            raise UnsupportedModel(f"{self.at} converts to {dtype}: sample the model in float32 (model.float())")
        to_integer = dtype is not None and not dtype.is_floating_point and dtype != torch.bool
        tree: Expression = ("trunc", ("leaf", 0)) if to_integer else ("leaf", 0)
        if dtype == torch.bool:
            tree = ("ne", ("leaf", 0), 0.0)
        if tree == ("leaf", 0):
            return x
        return self.expression_value(tree, [x], lambda: self.constants_of(target, (x,), kwargs))

    def mul(self, target: Any, a: Value | float, b: Value | float) -> Value:
        """A product; where a known factor is 0 the product is the constant 0, and a 0/1 mask computes nothing."""
        for x, factor in ((a, b), (b, a)):
            if not isinstance(x, Value) or not isinstance(factor, Value) or factor.ids is not None or factor.dynamic:
                continue
            assert x.ids is not None
            assert factor.const is not None
            zero = factor.const == 0
            if not zero.any():
                continue
            shape = torch.broadcast_shapes(x.ids.shape, factor.const.shape)
            ids = torch.where(zero.expand(shape), 0, x.ids.expand(shape))
            const = None if x.const is None else x.const.expand(shape) * factor.const
            if bool((factor.const[~zero] == 1).all()) and x.dynamic is None:
                return _value(ids, const, None)
            masked = Value(ids, None if x.const is None else x.const.expand(shape), x.dynamic)
            return self.pointwise(target, "mul", (masked, factor), {})
        return self.pointwise(target, "mul", (a, b), {})

    def where(self, target: Any, condition: Value, a: Value, b: Value) -> Value:
        if condition.ids is None and condition.dynamic is None:
            return self.select(condition, a, b)
        return self.pointwise(target, "where", (condition, a, b), {})

    def masked_fill(self, target: Any, x: Value, mask: Value, value: Value | float) -> Value:
        fill = value if isinstance(value, Value) else Value(None, torch.tensor(float(value)))
        return self.where(aten.where.self, mask, fill, x)

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        """`where` with a known condition only picks elements."""
        assert condition.const is not None

        def parts(value: Value) -> tuple[Tensor, Tensor]:
            ids = value.ids if value.ids is not None else torch.zeros(_shape(value), dtype=torch.int64)
            return ids, value.const if value.const is not None else torch.zeros(ids.shape)

        if a.dynamic or b.dynamic:
            return self.pointwise(aten.where.self, "where", (condition, a, b), {})
        (ids_a, const_a), (ids_b, const_b) = parts(a), parts(b)
        chosen = condition.const.bool()
        return _value(torch.where(chosen, ids_a, ids_b), torch.where(chosen, const_a.float(), const_b.float()), None)

    def batch_norm(
        self, target: Any, x: Value, weight: Value | None, bias: Value | None, mean: Value, var: Value, _: float, eps: float
    ) -> list[Value]:
        """Eval-mode batch normalisation: a scale and a shift for each channel."""
        assert mean.const is not None
        assert var.const is not None
        scale = (var.const.double() + eps).rsqrt()
        scale = scale if weight is None or weight.const is None else scale * weight.const.double()
        shift = -mean.const.double() * scale
        shift = shift if bias is None or bias.const is None else shift + bias.const.double()
        view = (1, -1, *([1] * (len(_shape(x)) - 2)))
        leaves: list[Value | float] = [x, Value(None, scale.float().view(view)), Value(None, shift.float().view(view))]
        tree = ("add", ("mul", ("leaf", 0), ("leaf", 1)), ("leaf", 2))
        args = (x, weight, bias, mean, var, _, eps)

        def constants() -> Value:
            return self.constants_of(target, args, {})[0]  # type: ignore[index]

        return [self.expression_value(tree, leaves, constants)]

    # ---------------------------------------------------------------- products

    def convolution(
        self, target: Any, x: Value, weight: Value, bias: Value | None, stride: list[int], padding: list[int],
        dilation: list[int], transposed: bool, output_padding: list[int], groups: int,
    ) -> Value:  # fmt: skip
        if weight.ids is not None or weight.dynamic is not None or weight.const is None:
            raise UnsupportedModel(f"{self.at}: a convolution whose weights depend on the image or on conditions")
        if transposed or any(step != 1 for step in stride):
            kind = "transposed convolution" if transposed else f"convolution with stride {tuple(stride)}"
            raise UnsupportedModel(f'{self.at}: a {kind} is not supported yet; engine="naive" samples such a model, slowly')
        assert x.ids is not None
        one_dimensional = x.ids.dim() == 3
        matrix = weight.const.unsqueeze(2) if one_dimensional else weight.const
        if matrix.dim() != 4:
            raise UnsupportedModel(f"{self.at}: convolutions over {matrix.dim() - 2} dimensions are not supported")
        if one_dimensional:
            padding, dilation = [0, *padding], [1, *dilation]
        args = (x, weight, bias, stride, padding[-1:] if one_dimensional else padding, dilation, False, output_padding, groups)
        maps = x.ids.unsqueeze(2) if one_dimensional else x.ids
        maps = maps.permute(0, 2, 3, 1)
        row0, col0 = self.first_pixel(maps)
        if not self.builder.is_regular(self.at, maps, row0, col0):
            return self.convolution(
                target, self.regular(x), weight, bias, stride, args[4], args[5][-1:] if one_dimensional else dilation, False,
                output_padding, groups,
            )  # fmt: skip
        numbers = self.builder.conv(
            self.at, maps, matrix, None if bias is None else bias.const, padding, dilation, groups, row0, col0
        )
        ids = both_images(numbers).permute(0, 3, 1, 2)
        result = Value(ids.squeeze(2) if one_dimensional else ids)
        if x.const is None:
            return result
        dilations = dilation[-1:] if one_dimensional else dilation
        call = (Value(None, _masked(x)), weight, None, stride, args[4], dilations, False, output_padding, groups)
        known = Value(None, _masked(x), self.masked_dynamic(x))
        return self.add_constant(result, self.fold(target, (known, *call[1:]), {}))

    def mm(self, target: Any, a: Value, b: Value) -> Value:
        return self.linear(a, b, None) if b.ids is None else self.linear_transposed(a, b)

    def addmm(self, target: Any, bias: Value, a: Value, b: Value, beta: float = 1, alpha: float = 1) -> Value:
        if beta != 1 or alpha != 1 or bias.ids is not None or b.ids is not None:
            return self.add(self.mm(None, a, b), bias)
        return self.linear(a, b, bias)

    def bmm(self, target: Any, a: Value, b: Value) -> Value:
        shared, other = (b, a) if b.ids is None else (a, b)
        if shared.ids is not None or shared.dynamic is not None or shared.const is None or other.ids is None:
            raise UnsupportedModel(
                f"{self.at}: a product of two tensors that depend on the image (attention) is not supported yet; "
                'engine="naive" samples such a model, slowly'
            )
        if not (shared.const == shared.const[:1]).all():
            raise UnsupportedModel(f"{self.at}: a batched product with different matrices is not supported")
        matrix = Value(None, shared.const[0])
        if other is a:
            batch, rows, inner = other.ids.shape
            flat = self.reshaped(other, (batch * rows, inner))
            return self.reshaped(self.linear(flat, matrix, None), (batch, rows, -1))
        assert matrix.const is not None
        moved = self.layout(aten.permute.default, (other, [0, 2, 1]), {})
        batch, rows, inner = _shape(moved)
        product = self.linear(self.reshaped(moved, (batch * rows, inner)), Value(None, matrix.const.t()), None)
        return self.layout(aten.permute.default, (self.reshaped(product, (batch, rows, -1)), [0, 2, 1]), {})

    def linear(self, x: Value, weight: Value, bias: Value | None) -> Value:
        """x (M, I) times weight (I, O): every row of x holds the channels of one pixel."""
        if weight.dynamic is not None or weight.const is None:
            raise UnsupportedModel(f"{self.at}: a matrix that depends on conditions multiplies the image; not supported")
        assert x.ids is not None
        layout = infer_layout(self.builder.table, [x.ids], str(self.at), (1,))
        if layout.channel_dims != (1,):
            raise UnsupportedModel(f"{self.at} multiplies along rows, columns or images (shape {tuple(x.ids.shape)})")
        maps = layout.gather(x.ids)
        if not self.builder.is_regular(self.at, maps, layout.row0, layout.col0):
            return self.linear(self.regular(x), weight, bias)
        matrix = weight.const.t().reshape(weight.const.shape[1], weight.const.shape[0], 1, 1)
        known_bias = bias.const if bias is not None and bias.dynamic is None and bias.const is not None else None
        if known_bias is not None and known_bias.numel() not in (1, matrix.shape[0]):
            known_bias = None
        vector = None if known_bias is None else known_bias.reshape(-1).expand(matrix.shape[0])
        numbers = self.builder.conv(self.at, maps, matrix, vector, (0, 0), (1, 1), 1, layout.row0, layout.col0)
        shape = (x.ids.shape[0], matrix.shape[0])
        first = layout.index[..., :1]
        index = np.where(first >= 0, first // x.ids.shape[1] * shape[1] + np.arange(shape[1]), -1)
        result = Value(Layout(index, layout.row0, layout.col0, (1,)).scatter(both_images(numbers), shape))
        if x.const is not None:
            known = Value(None, _masked(x), self.masked_dynamic(x))
            result = self.add_constant(result, self.fold(aten.mm.default, (known, weight), {}))
        return result if known_bias is not None or bias is None else self.add(result, bias)

    def linear_transposed(self, weight: Value, x: Value) -> Value:
        """weight (O, I) times x (I, M)."""
        if weight.ids is not None or weight.const is None:
            raise UnsupportedModel(
                f"{self.at}: a product of two tensors that depend on the image (attention) is not supported yet; "
                'engine="naive" samples such a model, slowly'
            )
        moved = self.layout(aten.permute.default, (x, [1, 0]), {})
        product = self.linear(moved, Value(None, weight.const.t(), weight.dynamic), None)
        return self.layout(aten.permute.default, (product, [1, 0]), {})

    def embedding(self, target: Any, weight: Value, index: Value, *_: Any, **__: Any) -> Value:
        """A look-up of image values: features that are tables of one value."""
        assert index.ids is not None
        assert weight.const is not None
        ids = self.builder.embedding(self.at, index.ids, weight.const)
        if index.const is None and bool((ids > 0).all()):
            return Value(ids)
        return _value(ids, *self._embedding_constant(target, weight, index))

    def _embedding_constant(self, target: Any, weight: Value, index: Value) -> tuple[Tensor, fx.Node | None]:
        known = Value(None, _masked(index).long(), index.dynamic)
        constant = self.fold(target, (weight, known), {})
        return constant.const, constant.dynamic

    # ---------------------------------------------------------------- channels

    def layer_norm(
        self, target: Any, x: Value, normalized: list[int], weight: Value | None, bias: Value | None, eps: float
    ) -> list[Value]:
        dims = tuple(range(len(_shape(x)) - len(normalized), len(_shape(x))))
        count = int(np.prod(normalized))
        scale = np.ones(count, np.float32) if weight is None else _array(weight)
        shift = np.zeros(count, np.float32) if bias is None else _array(bias)

        def node(maps: Tensor, row0: int, col0: int) -> Tensor:
            return self.builder.norm(self.at, maps, scale, shift, eps, row0, col0)

        return [self.over_channels(x, dims, node, keep=True), None, None]  # type: ignore[list-item]

    def reduction(self, kind: str) -> Callable[..., Value]:
        def rule(target: Any, x: Value, dims: Any = None, keepdim: bool = False, **_: Any) -> Value:
            return self.reduced(x, dims, keepdim, kind, 0.0)

        return rule

    def variance(
        self, target: Any, x: Value, dims: Any = None, unbiased: bool = True, *, correction: float | None = None,
        keepdim: bool = False,
    ) -> Value:  # fmt: skip
        amount = float(unbiased) if correction is None else float(correction)
        return self.reduced(x, dims, keepdim, "var", amount)

    def reduced(self, x: Value, dims: Any, keepdim: bool, kind: str, correction: float) -> Value:
        rank = len(_shape(x))
        listed = range(rank) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        chosen = tuple(sorted(d % rank for d in listed))

        def node(maps: Tensor, row0: int, col0: int) -> Tensor:
            return self.builder.reduce(self.at, maps, kind, correction, row0, col0)

        result = self.over_channels(x, chosen, node, keep=False)
        if keepdim:
            return result
        shape = [size for d, size in enumerate(_shape(result)) if d not in chosen]
        return self.reshaped(result, tuple(shape))

    def log_softmax(self, target: Any, x: Value, dim: int, _: bool) -> Value:
        total = self.reduced(x, dim, True, "logsumexp", 0.0)
        return self.expression_value(("sub", ("leaf", 0), ("leaf", 1)), [x, total], None)

    def softmax(self, target: Any, x: Value, dim: int, _: bool) -> Value:
        total = self.reduced(x, dim, True, "logsumexp", 0.0)
        return self.expression_value(("exp", ("sub", ("leaf", 0), ("leaf", 1))), [x, total], None)

    def over_channels(
        self, x: Value, dims: tuple[int, ...], node: Callable[[Tensor, int, int], Tensor], keep: bool
    ) -> Value:
        """Apply `node` to the channels in `dims`, for each channel of the other dimensions by itself."""
        x = self.regular(x) if x.const is not None else x
        assert x.ids is not None
        shape = tuple(x.ids.shape)
        layout = infer_layout(self.builder.table, [x.ids], str(self.at))
        if not set(dims) <= set(layout.channel_dims):
            raise self.statistics("a reduction")
        sizes = [shape[d] for d in layout.channel_dims]
        inner = [layout.channel_dims.index(d) for d in dims]
        outer = [i for i in range(len(sizes)) if i not in inner]
        count = int(np.prod([sizes[i] for i in inner], dtype=np.int64))
        grid = layout.index.reshape(*layout.index.shape[:3], *sizes)
        grid = grid.transpose(0, 1, 2, *(3 + i for i in outer), *(3 + i for i in inner))
        grid = grid.reshape(*layout.index.shape[:3], -1, count)  # (images, rows, cols, outer, inner)
        out_shape = shape if keep else tuple(1 if d in dims else size for d, size in enumerate(shape))
        positions = np.arange(int(np.prod(out_shape))).reshape(out_shape)
        targets = np.broadcast_to(positions, shape).reshape(-1)
        ids = torch.zeros(int(np.prod(out_shape)), dtype=torch.int64)
        for channel in range(grid.shape[3]):
            index = grid[:, :, :, channel]
            part = Layout(index, layout.row0, layout.col0, ())
            numbers = both_images(node(part.gather(x.ids), layout.row0, layout.col0))
            written = index if keep else index[..., :1]
            inside = written >= 0
            ids[torch.from_numpy(targets[written[inside]])] = numbers[torch.from_numpy(inside)]
        return Value(ids.view(out_shape))

    # ---------------------------------------------------------------- helpers

    def regular(self, x: Value) -> Value:
        """The value as elements of nodes only, over a full rectangle: constants become fields."""
        full = self.expression_value(("leaf", 0), [x], None, force=True)
        assert full.ids is not None
        if not bool((full.ids > 0).all()):
            raise UnsupportedModel(f"{self.at} reads elements that do not depend on the image, in places unknown to it")
        return full

    def reshaped(self, x: Value, shape: tuple[int, ...]) -> Value:
        return self.layout(aten.view.default, (x, list(shape)), {})

    def add(self, a: Value, b: Value) -> Value:
        return self.pointwise(aten.add.Tensor, "add", (a, b), {})

    def add_constant(self, x: Value, constant: Value) -> Value:
        """Add what the constant elements of an operand contribute to a product."""
        assert constant.const is not None
        if constant.dynamic is None and not constant.const.any():
            return x
        return self.add(x, constant)

    def masked_dynamic(self, x: Value) -> fx.Node | None:
        """The constant part of a value in the condition graph, with zeros where its elements come from the image."""
        if x.dynamic is None:
            return None
        assert x.ids is not None
        mask = Value(None, (x.ids == 0).float())
        return self.record(aten.mul.Tensor, (Value(None, x.const, x.dynamic), mask), {})

    def first_pixel(self, maps: Tensor) -> tuple[int, int]:
        """A pixel for position (0, 0) of maps (images, rows, cols, F), chosen so that most channels read at no offset."""
        place = self.builder.table.places(maps[0].numpy())
        rows, cols, channels = np.nonzero(place.known)
        if not len(rows):
            return 0, 0
        r, c, f = rows[0], cols[0], channels[0]
        return int(place.row[r, c, f]) - int(r), int(place.col[r, c, f]) - int(c)

    def statistics(self, name: str) -> NotAutoregressive:
        channels, height, width = self.builder.shape
        return NotAutoregressive(
            f"not autoregressive: {name} at {self.at} takes statistics over rows, columns or images, so that every "
            f"prediction depends on the whole image of {height} x {width} pixels. Normalise over channels only "
            "(layer normalisation), or use batch normalisation in eval mode",
            layer=self.at.layer,
            node=self.at.name,
            offset=(height - 1, width - 1),
        )


def _layer(node: fx.Node) -> str:
    """The user's submodule that an operation belongs to, as in `named_modules()`."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()), ("", ""))[0] if stack else ""
    return path.removeprefix("module").removeprefix(".")


def _values(tree: Any) -> list[Value]:
    if isinstance(tree, Value):
        return [tree]
    if isinstance(tree, dict):
        return [value for child in tree.values() for value in _values(child)]
    if isinstance(tree, (tuple, list)):
        return [value for child in tree for value in _values(child)]
    return []


def _replace(tree: Any, change: Callable[[Value], Any]) -> Any:
    if isinstance(tree, Value):
        return change(tree)
    if isinstance(tree, dict):
        return {key: _replace(child, change) for key, child in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(_replace(child, change) for child in tree) if type(tree) in (tuple, list) else tuple(
            _replace(child, change) for child in tree
        )
    return tree


def _concrete(tree: Any) -> Any:
    return _replace(tree, lambda value: value.const)


def _wrap(result: Any, dynamic: fx.Node | None, graph: fx.Graph) -> Any:
    if isinstance(result, (tuple, list)):
        gets = [None if dynamic is None else graph.call_function(operator.getitem, (dynamic, i)) for i in range(len(result))]
        return [_wrap(item, get, graph) for item, get in zip(result, gets, strict=True)]
    return Value(None, result, dynamic) if isinstance(result, Tensor) else result


def _value(ids: Tensor, const: Tensor | None, dynamic: fx.Node | None) -> Value:
    """A value; forgets constants that no element needs."""
    if not (ids > 0).any():
        return Value(None, torch.zeros(ids.shape) if const is None else const, dynamic)
    if const is None or bool((ids > 0).all()) or (dynamic is None and not const[ids == 0].any()):
        return Value(ids)
    return Value(ids, const, dynamic)


def _masked(x: Value) -> Tensor:
    """The constant part of a value, with zeros where its elements come from the image."""
    assert x.ids is not None
    const = torch.zeros(x.ids.shape) if x.const is None else x.const
    return torch.where(x.ids > 0, torch.zeros((), dtype=const.dtype), const)


def _shape(value: Value) -> tuple[int, ...]:
    tensor = value.ids if value.ids is not None else value.const
    assert tensor is not None
    return tuple(tensor.shape)


def _array(value: Value) -> np.ndarray:
    assert value.const is not None
    return value.const.detach().float().reshape(-1).numpy()
