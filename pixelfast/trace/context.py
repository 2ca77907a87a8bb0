"""The state of a conversion, and the registry of rules: how an ATen operator becomes nodes, under the operator's name.

A rule is called with the context, the operator (with its overload) and the arguments of the call, where one of these depends
on the image. It gives the call's result: values, or a list of them. What depends on no argument of the image needs no rule:
`Context.fold` computes it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from ..errors import NotAutoregressive, UnsupportedModel
from ..ir.program import Op
from .expressions import Expression, linearise
from .index import IMAGES, all_elements, reshaped
from .layout_types import Layout
from .nodes.base import Provenance
from .nodes.builder import GraphBuilder
from .scores import Products, products_in
from .values import Value, constant_part, constants, mixed, replace_values, values_in

aten = torch.ops.aten

NAIVE = 'engine="naive" samples such a model, slowly'

Rule = Callable[..., Any]
Registered = TypeVar("Registered", bound=Rule)

RULES: dict[type, dict[str, Rule]] = {Value: {}, Products: {}}
"""Rules by what they work on, and by the operator's name without overload; complete once `trace.rules` is imported."""


def rule(*names: str, on: type = Value) -> Callable[[Registered], Registered]:
    """Register a rule for ATen operators.

    Args:
        names: the operators' names, without overload.
        on: `Value`; or `Products`, for calls with an argument that is one. Such a rule gives None for what it does not know.

    Raises:
        ValueError: an operator has a rule already.
    """

    def register(function: Registered) -> Registered:
        for name in names:
            if name in RULES[on]:
                both = " and ".join(f"{f.__module__}.{f.__qualname__}" for f in (RULES[on][name], function))
                raise ValueError(f"the operator {name!r} has two rules for {on.__name__}, {both}: register it once")
            RULES[on][name] = function
        return function

    return register


def name_of(target: Any) -> str:
    """An operator's ATen name without overload."""
    return str(target._schema.name.split("::")[-1])


class Context:
    """What rules read and write: the nodes so far, the condition graph, and which operation it is that they convert (`at`)."""

    def __init__(self, builder: GraphBuilder, rules: Mapping[type, Mapping[str, Rule]] = RULES) -> None:
        self.builder = builder
        self.rules = rules
        self.condition_graph = fx.Graph()
        self.condition_root = nn.Module()
        self.at = Provenance("", "")

    # ---------------------------------------------------------------- calls

    def call(self, target: Any, args: Any, kwargs: Any) -> Any:
        """What an operation gives: by its rule if it depends on the image, and else computed.

        Raises:
            UnsupportedModel: no rule covers it.
        """
        if products := products_in((args, kwargs)):
            return self._call_on_products(target, products[0], args, kwargs)
        if all(value.numbers is None for value in values_in((args, kwargs))):
            return self.fold(target, args, kwargs)
        result = self.rules[Value].get(name_of(target))
        if result is None:
            raise self.unsupported(target)
        return result(self, target, *args, **kwargs)

    def _call_on_products(self, target: Any, products: Products, args: Any, kwargs: Any) -> Any:
        found = self.rules[Products].get(name_of(target))
        given = {key: value for key, value in kwargs.items() if value is not None}
        result = None if found is None else found(self, target, *args, **given)
        if result is None:
            raise UnsupportedModel(
                f"the operation {target} at {self.at} on {products.name()} is not supported: known are views, known scales, "
                f"masks and biases, the softmax over keys, and the product with the values. {NAIVE}"
            )
        return result

    # ---------------------------------------------------------------- what does not depend on the image

    def fold(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Compute what does not depend on the image, and record it where it depends on conditions."""
        target = _anyhow(target)
        result = target(*replace_values(args, lambda value: value.const), **replace_values(kwargs, lambda value: value.const))
        dynamic = None
        if any(value.dynamic is not None for value in values_in((args, kwargs))):
            dynamic = self.record(target, args, kwargs)
        return self._wrapped(result, dynamic)

    def constants_of(self, target: Any, args: Any, kwargs: Any) -> Value:
        """The operation over the constant parts of its operands."""
        return self.fold(target, *replace_values((args, kwargs), constant_part))  # type: ignore[no-any-return]

    def _wrapped(self, result: Any, dynamic: fx.Node | None) -> Any:
        """What an operation over constants gave, as values; `dynamic` gives the same in the condition graph."""
        if isinstance(result, (tuple, list)):
            return [self._wrapped(item, self.item(dynamic, i)) for i, item in enumerate(result)]
        if isinstance(result, Tensor):
            return Value(None, result, dynamic)
        if dynamic is not None and result is not None:
            raise UnsupportedModel(
                f"{self.at}: the module reads a Python number from its conditions (.item(), int(), float()), which the trace "
                "would keep for all later calls: compute with the tensor itself, or pass a Python number as the condition. "
                f"{NAIVE}"
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

        arguments = replace_values(args, reference), replace_values(kwargs, reference)
        return self.condition_graph.call_function(_anyhow(target), *arguments)

    # ---------------------------------------------------------------- nodes

    def expression_value(
        self, tree: Expression, operands: list[Value | float], of_constants: Callable[[], Value]
    ) -> Value:
        """The value of an expression; `of_constants` gives the elements that no operand takes from the image."""
        ops, numbers = linearise(tree, len(operands))
        try:
            ids = self.builder.pointwise(self.at, [*operands, *numbers], ops)
        except UnsupportedModel as error:
            found = self._by_image([*operands, *numbers], ops)
            if found is None:
                raise error from None
            ids = found
        if all_elements(ids):
            return Value(ids)
        constant = of_constants()
        return mixed(ids, constant.const, constant.dynamic)

    def _by_image(self, operands: list[Value | float], ops: list[Op]) -> Tensor | None:
        """A pointwise operation over a first axis in which images and heads are merged, either the slower; None if neither."""
        shape = torch.broadcast_shapes(*(operand.shape for operand in operands if isinstance(operand, Value)))
        heads, odd = divmod(shape[0], IMAGES)
        for split in ((IMAGES, heads), (heads, IMAGES)) if heads > 1 and not odd else ():

            def parted(operand: Value | float, split: tuple[int, int] = split) -> Value | float:
                if not isinstance(operand, Value) or len(operand.shape) < len(shape):
                    return operand
                first, *rest = operand.shape
                return self.reshaped(operand, (*(split if first > 1 else (1, 1)), *rest))

            try:
                return reshaped(self.builder.pointwise(self.at, list(map(parted, operands)), ops), shape)
            except UnsupportedModel:
                continue
        return None

    def regular(self, x: Value, layout: Layout | None = None) -> Value:
        """The value with its constants as fields of nodes, wherever its layout has a place for them."""
        ids = self.builder.pointwise(self.at, [x], [], force=True, layout=layout)
        return mixed(ids, x.const, x.dynamic)

    def reshaped(self, x: Value, shape: tuple[int, ...]) -> Value:
        return self.call(aten.view.default, (x, list(shape)), {})  # type: ignore[no-any-return]

    def permuted(self, x: Value, dims: list[int]) -> Value:
        return self.call(aten.permute.default, (x, dims), {})  # type: ignore[no-any-return]

    # ---------------------------------------------------------------- errors

    def unsupported(self, target: Any) -> UnsupportedModel:
        """The error for an operation that no rule covers."""
        return UnsupportedModel(
            f"the operation {target} at {self.at} is not supported on values that depend on the image. "
            f"{NAIVE}; docs/architecture.md says how an operation is added"
        )

    def statistics(self, name: str) -> NotAutoregressive:
        """The error for an operation that mixes pixels or images by statistics over them."""
        _, height, width = self.builder.shape
        return NotAutoregressive(
            f"not autoregressive: {name} at {self.at} takes statistics over rows, columns or images, so that every "
            f"prediction depends on the whole image of {height} x {width} pixels. Normalise over channels only "
            "(layer normalisation), or use batch normalisation in eval mode",
            layer=self.at.layer,
            node=self.at.name,
            offset=(height - 1, width - 1),
        )


def _anyhow(target: Any) -> Any:
    """An operation for constants, which need not lie in memory as they do in the module."""
    return aten.reshape.default if target in (aten.view.default, aten._unsafe_view.default) else target
