"""Attention: products of queries and keys wait, as `Products`, until they meet the values; then all of it is one node.

Until then a product is followed through layout operations, known factors and summands (scale, masks, position biases) and
the softmax over its keys. It has no pixel of its own, so anything else that is done with it is refused by name. Which product
a number of such a tensor is, stepped numbers say (elements.py): number (b * rows + i) * cols + j is left[b, i] . right[b, j].

Letters: B batch entries (images times heads, in either order), L pixels, E and D channels of a head's keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from ..errors import UnsupportedModel
from .attention_node import attention_node
from .index import stepped
from .values import Value, shape_of

if TYPE_CHECKING:
    from .convert import Converter

aten = torch.ops.aten

NAIVE = 'engine="naive" samples such a model, slowly'


@dataclass(frozen=True)
class Weights:
    """What became of the products by a softmax, and after it: factor * softmax, and 0 where `zeroed`."""

    over_cols: bool
    factor: Tensor
    zeroed: Tensor


@dataclass(frozen=True)
class Products:
    """A traced tensor of products between vectors of two others, or of the weights that a softmax made of them.

    `numbers` (stepped) says which product stands where. `left` is (B, rows, E), `right` (B, cols, E). A score is
    factor * product + bias. All known tensors are (B or 1, rows or 1, cols or 1).
    """

    numbers: Tensor
    left: Value
    right: Value
    factor: Tensor
    bias: Tensor
    weights: Weights | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        batch, rows, _ = shape_of(self.left)
        return batch, rows, shape_of(self.right)[1]

    def name(self) -> str:
        return "attention scores" if self.weights is None else "attention weights"


def products_in(tree: Any) -> list[Products]:
    """All products in nested arguments."""
    found: list[Products] = []

    def note(item: Any) -> Any:
        if isinstance(item, Products):
            found.append(item)
        return item

    fx.node.map_aggregate(tree, note)
    return found


def multiply(c: Converter, a: Value, b: Value) -> Products:
    """bmm of two tensors that depend on the image: (B, rows, E) and (B, E, cols)."""
    batch, rows, _ = shape_of(a)
    cols = shape_of(b)[2]
    _, height, width = c.builder.shape
    if (rows, cols) != (height * width,) * 2:
        raise UnsupportedModel(
            f"{c.at}: a product of two tensors that depend on the image, of shapes {shape_of(a)} and {shape_of(b)}; attention "
            f"is supported from all {height} x {width} pixels to all, {height * width} by {height * width}. {NAIVE}"
        )
    right = c.layout(aten.permute.default, (b, [0, 2, 1]), {})
    numbers = stepped(0, (batch, rows, cols), (rows * cols, cols, 1))
    return Products(numbers, a, right, torch.ones(1, 1, 1, dtype=torch.float32), torch.zeros(1, 1, 1, dtype=torch.float32))


def follow(c: Converter, target: Any, name: str, args: Any, kwargs: Any) -> Any:
    """An operation of which some arguments are products."""
    if name in MOVES:
        return moved(c, target, args, kwargs)
    if name in RULES:
        result = RULES[name](c, *args, **{key: value for key, value in kwargs.items() if value is not None})
        if result is not None:
            return result
    raise UnsupportedModel(
        f"the operation {target} at {c.at} on {products_in((args, kwargs))[0].name()} is not supported: known are views, "
        f"known scales, masks and biases, the softmax over keys, and the product with the values. {NAIVE}"
    )


# -------------------------------------------------------------------- layout

MOVES = {
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "clone", "alias",
    "detach", "slice", "select", "split", "split_with_sizes", "unbind", "_to_copy", "lift_fresh_copy",
}  # fmt: skip


def moved(c: Converter, target: Any, args: Any, kwargs: Any) -> Any:
    """A view moves the numbers as PyTorch moves any strided tensor."""
    products = args[0]
    assert isinstance(products, Products)
    name = target._schema.name.split("::")[-1]
    if name == "_to_copy" and kwargs.get("dtype", torch.float32) not in (torch.float32, torch.float64):
        raise UnsupportedModel(f"{c.at} converts {products.name()} to {kwargs['dtype']}: sample the model in float32")
    if name in ("clone", "alias", "detach", "_to_copy", "lift_fresh_copy"):
        return products
    try:
        if name in ("view", "_unsafe_view", "reshape"):
            numbers = products.numbers.view(tuple(args[1]))
        else:
            numbers = target(products.numbers, *args[1:], **kwargs)
    except RuntimeError as error:
        raise UnsupportedModel(
            f"{c.at} joins axes of {products.name()} that are not neighbours, images or heads with pixels; {NAIVE}"
        ) from error
    if isinstance(numbers, (tuple, list)):
        return [replace(products, numbers=part) for part in numbers]
    return replace(products, numbers=numbers)


def known(c: Converter, products: Products, value: Value | float | bool) -> Tensor:
    """A known operand as it meets each product: (B or 1, rows or 1, cols or 1)."""
    if not isinstance(value, Value):
        return torch.full((1, 1, 1), float(value), dtype=torch.float32)
    if value.dynamic is not None or value.const is None:
        raise UnsupportedModel(f"{c.at}: {products.name()} meet numbers that depend on the conditions of a call; {NAIVE}")
    const = value.const.detach()
    numbers = products.numbers
    _, rows, cols = products.size
    const = const.reshape([1] * (numbers.dim() - const.dim()) + list(const.shape))
    if const.dim() > numbers.dim() or any(size not in (1, n) for size, n in zip(const.shape, numbers.shape, strict=False)):
        grown = f"of shape {tuple(numbers.shape)} meet numbers of shape {tuple(const.shape)}"
        raise UnsupportedModel(f"{c.at}: {products.name()} {grown}; {NAIVE}")
    const = _narrowed(const).float()
    varying = [dim for dim in range(const.dim()) if const.shape[dim] > 1]
    whole = cols > 1 and not numbers.storage_offset() and all(numbers.shape[dim] == cols for dim in varying)
    if whole and all(numbers.stride(dim) in (1, cols) for dim in varying):
        steps = {numbers.stride(dim): dim for dim in varying}  # the usual mask, (L, L), at once
        if len(steps) == len(varying):
            sizes = [const.shape[steps[step]] if step in steps else 1 for step in (cols, 1)]
            return const.permute(sorted(range(const.dim()), key=lambda dim: -numbers.stride()[dim])).reshape(1, *sizes)
    batch_dims = [dim for dim in range(const.dim()) if numbers.shape[dim] > 1 and numbers.stride(dim) >= rows * cols]
    if any(const.shape[dim] > 1 for dim in batch_dims):  # different for heads or images: then for each entry of the batch
        const = const.expand([numbers.shape[dim] if dim in batch_dims else const.shape[dim] for dim in range(const.dim())])
    index = torch.tensor(int(numbers.storage_offset()))
    for dim, (size, step) in enumerate(zip(const.shape, numbers.stride(), strict=True)):
        index = index + (torch.arange(size) * step).view(-1, *([1] * (const.dim() - dim - 1)))
    place = index // (rows * cols), index // cols % rows, index % cols
    sizes = [int(axis.max()) + 1 for axis in place]
    if math.prod(sizes) != const.numel():
        raise UnsupportedModel(f"{c.at}: {products.name()} meet numbers for a part of them only; {NAIVE}")
    result = torch.zeros(sizes, dtype=torch.float32)
    result[place] = const.reshape(index.shape)
    return result


def _narrowed(const: Tensor) -> Tensor:
    """One entry along each dimension in which all are the same: PyTorch writes its zeros out for every product."""
    for dim in range(const.dim()):
        if const.shape[dim] > 1 and bool((const == (first := const.narrow(dim, 0, 1))).all()):
            const = first
    return const


def shown(products: Products, tensor: Tensor) -> Value:
    """A known tensor (B or 1, rows or 1, cols or 1) in the shape that the products have now."""
    full = tensor.expand(products.size).contiguous()
    numbers = products.numbers
    return Value(None, full.as_strided(tuple(numbers.shape), numbers.stride(), int(numbers.storage_offset())).clone())


# -------------------------------------------------------------------- scores and weights


def mul(c: Converter, a: Any, b: Any) -> Products | None:
    products, other = (a, b) if isinstance(a, Products) else (b, a)
    return None if _unknown(other) else _times(products, known(c, products, other))


def div(c: Converter, a: Any, b: Any, **more: Any) -> Products | None:
    return None if _unknown(b) or isinstance(b, Products) or more else _times(a, 1 / known(c, a, b))


def neg(c: Converter, a: Products) -> Products:
    return _times(a, -torch.ones(1, 1, 1, dtype=torch.float32))


def _times(products: Products, factor: Tensor) -> Products:
    if products.weights is not None:
        return replace(products, weights=replace(products.weights, factor=products.weights.factor * factor))
    return replace(products, factor=products.factor * factor, bias=products.bias * factor)


def add(c: Converter, a: Any, b: Any, alpha: float = 1) -> Products | None:
    if isinstance(a, Products):
        return None if _unknown(b) else _plus(a, alpha * known(c, a, b))
    return None if _unknown(a) else _plus(_times(b, torch.full((1, 1, 1), float(alpha), dtype=torch.float32)), known(c, b, a))


def sub(c: Converter, a: Any, b: Any, alpha: float = 1) -> Products | None:
    return add(c, a, b, -alpha)


def rsub(c: Converter, a: Any, b: Any, alpha: float = 1) -> Products | None:
    return add(c, b, a, -alpha)


def _plus(products: Products, summand: Tensor) -> Products | None:
    if products.weights is not None:
        return None if summand.any() else products
    return replace(products, bias=products.bias + summand)


def masked_fill(c: Converter, products: Any, mask: Any, value: Any) -> Products | None:
    return where(c, mask, value, products)


def where(c: Converter, condition: Any, a: Any, b: Any) -> Products | None:
    products = a if isinstance(a, Products) else b
    other = b if isinstance(a, Products) else a
    if not isinstance(products, Products) or _unknown(condition) or _unknown(other) or isinstance(other, Products):
        return None
    chosen = known(c, products, condition) != 0
    filled = ~chosen if isinstance(a, Products) else chosen
    value = known(c, products, other)
    if products.weights is not None:
        if (value * filled).any():
            return None
        return replace(products, weights=replace(products.weights, zeroed=products.weights.zeroed | filled))
    zero = torch.zeros((), dtype=torch.float32)
    return replace(
        products, factor=torch.where(filled, zero, products.factor), bias=torch.where(filled, value, products.bias)
    )


def softmax(c: Converter, products: Products, dim: int, *_: Any) -> Products | None:
    numbers, cols = products.numbers, products.size[2]
    if products.weights is not None or numbers.shape[dim] != cols:
        return None
    step = numbers.stride(dim)
    if step not in (1, cols) and cols > 1:
        return None
    fresh = Weights(step == 1 or cols == 1, torch.ones(1, 1, 1), torch.zeros(1, 1, 1, dtype=torch.bool))
    return replace(products, weights=fresh)


def safe_softmax(c: Converter, products: Products, dim: int, *_: Any) -> Products | None:
    """A softmax that gives 0 where no key is left."""
    weights = softmax(c, products, dim)
    return weights and where(c, isnan(c, weights), 0.0, weights)


def eq(c: Converter, products: Any, value: Any) -> Value | None:
    """Whether a score is -infinity is known: where a mask makes it so."""
    if not isinstance(products, Products) or isinstance(value, (Value, Products)) or not math.isinf(value):
        return None
    never = torch.zeros(1, 1, 1, dtype=torch.bool)
    return shown(products, products.bias == value if products.weights is None else never)


def isnan(c: Converter, products: Products) -> Value:
    """Weights are not a number where a row has no key left."""
    weights = products.weights
    if weights is None:
        return shown(products, torch.zeros(1, 1, 1, dtype=torch.bool))
    lost = (products.bias == -math.inf).all(2 if weights.over_cols else 1, keepdim=True)
    return shown(products, lost & ~weights.zeroed)


def isinf(c: Converter, products: Products) -> Value:
    never = torch.zeros(1, 1, 1, dtype=torch.bool)
    return shown(products, products.bias.isinf() if products.weights is None else never)


def ne(c: Converter, a: Any, b: Any) -> Value | None:
    return isnan(c, a) if a is b else None


def nan_to_num(c: Converter, products: Products, nan: float | None = None, *_: Any) -> Products | None:
    return where(c, isnan(c, products), nan or 0.0, products)


def meet(c: Converter, a: Any, b: Any) -> Value | None:
    """The product of weights and values, in either order: one node."""
    weights_first = isinstance(a, Products)
    products, values = (a, b) if weights_first else (b, a)
    if not isinstance(products, Products) or not isinstance(values, Value):
        return None
    if products.weights is None:
        raise UnsupportedModel(
            f"{c.at}: scores meet values without a softmax over the keys (linear attention), which is not supported; {NAIVE}"
        )
    batch, rows, cols = products.size
    query, key = (cols, 1) if products.weights.over_cols else (1, cols)
    steps = (rows * cols, query, key) if weights_first else (rows * cols, key, query)
    numbers = products.numbers
    if (
        tuple(numbers.shape) != (batch, rows, cols)
        or numbers.storage_offset()
        or any(size > 1 and step != wanted for size, step, wanted in zip(numbers.shape, numbers.stride(), steps, strict=True))
    ):
        raise UnsupportedModel(
            f"{c.at}: values meet attention weights along another axis than that of their softmax, or a part of them; {NAIVE}"
        )
    if not weights_first:
        values = c.layout(aten.permute.default, (values, [0, 2, 1]), {})
    found = attention_node(c, products, values)  # (B, L, D)
    return found if weights_first else c.layout(aten.permute.default, (found, [0, 2, 1]), {})


def _unknown(operand: Any) -> bool:
    return isinstance(operand, Value) and operand.numbers is not None


RULES: dict[str, Callable[..., Any]] = {
    "mul": mul, "div": div, "neg": neg, "add": add, "sub": sub, "rsub": rsub, "masked_fill": masked_fill, "where": where,
    "_softmax": softmax, "_safe_softmax": safe_softmax, "eq": eq, "isnan": isnan, "isinf": isinf, "ne": ne,
    "nan_to_num": nan_to_num, "bmm": meet,
}  # fmt: skip
