"""Attention: products of queries and keys wait, as `Products`, until they meet the values; then all of it is one node.

Until then a product is followed through layout operations, known factors and summands (scale, masks, position biases) and
the softmax over its keys. It has no pixel of its own, so anything else that is done with it is refused by name.

Letters: B batch entries (images times heads, in either order), L pixels, E and D channels of a head's keys and values.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedModel
from ..context import NAIVE, Context, name_of, rule
from ..index import stepped
from ..scores import Products, Weights
from ..values import Value, shape_of
from .attention_node import attention_node
from .layout import COPIES, RESHAPES, SHAPE_ONLY, VIEWS


def attention_scores(c: Context, a: Value, b: Value) -> Products:
    """bmm of two tensors that depend on the image: (B, rows, E) and (B, E, cols)."""
    batch, rows, _ = shape_of(a)
    cols = shape_of(b)[2]
    _, height, width = c.builder.shape
    if (rows, cols) != (height * width,) * 2:
        raise UnsupportedModel(
            f"{c.at}: a product of two tensors that depend on the image, of shapes {shape_of(a)} and {shape_of(b)}; attention "
            f"is supported from all {height} x {width} pixels to all, {height * width} by {height * width}. {NAIVE}"
        )
    right = c.permuted(b, [0, 2, 1])
    numbers = stepped(0, (batch, rows, cols), (rows * cols, cols, 1))
    return Products(numbers, a, right, torch.ones(1, 1, 1, dtype=torch.float32), torch.zeros(1, 1, 1, dtype=torch.float32))


# -------------------------------------------------------------------- layout


@rule(*RESHAPES, *COPIES, *(VIEWS - {"diagonal", "unfold"}), "_to_copy", on=Products)
def moved(c: Context, target: Any, products: Any, *args: Any, **kwargs: Any) -> Any:
    """A view moves the numbers as PyTorch moves any strided tensor."""
    assert isinstance(products, Products)
    name = name_of(target)
    if name == "_to_copy" and kwargs.get("dtype", torch.float32) not in (torch.float32, torch.float64):
        raise UnsupportedModel(f"{c.at} converts {products.name()} to {kwargs['dtype']}: sample the model in float32")
    if name in COPIES or name == "_to_copy":
        return products
    try:
        numbers = products.numbers.view(tuple(args[0])) if name in RESHAPES else target(products.numbers, *args, **kwargs)
    except RuntimeError as error:
        raise UnsupportedModel(
            f"{c.at} joins axes of {products.name()} that are not neighbours, images or heads with pixels; {NAIVE}"
        ) from error
    if isinstance(numbers, (tuple, list)):
        return [replace(products, numbers=part) for part in numbers]
    return replace(products, numbers=numbers)


@rule(*SHAPE_ONLY, on=Products)
def shape_only(c: Context, target: Any, products: Any, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(products, Products):
        return None
    return c.call(target, (Value(None, torch.zeros(products.numbers.shape)), *args), kwargs)


def known(c: Context, products: Products, value: Value | float | bool) -> Tensor:
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


@rule("mul", on=Products)
def mul(c: Context, target: Any, a: Any, b: Any) -> Products | None:
    products, other = (a, b) if isinstance(a, Products) else (b, a)
    return None if _unknown(other) else _times(products, known(c, products, other))


@rule("div", on=Products)
def div(c: Context, target: Any, a: Any, b: Any, **more: Any) -> Products | None:
    return None if _unknown(b) or isinstance(b, Products) or more else _times(a, 1 / known(c, a, b))


@rule("neg", on=Products)
def neg(c: Context, target: Any, a: Products) -> Products:
    return _times(a, -torch.ones(1, 1, 1, dtype=torch.float32))


def _times(products: Products, factor: Tensor) -> Products:
    if products.weights is not None:
        return replace(products, weights=replace(products.weights, factor=products.weights.factor * factor))
    return replace(products, factor=products.factor * factor, bias=products.bias * factor)


@rule("add", on=Products)
def add(c: Context, target: Any, a: Any, b: Any, alpha: float = 1) -> Products | None:
    if isinstance(a, Products):
        return None if _unknown(b) else _plus(a, alpha * known(c, a, b))
    return None if _unknown(a) else _plus(_times(b, torch.full((1, 1, 1), float(alpha), dtype=torch.float32)), known(c, b, a))


@rule("sub", on=Products)
def sub(c: Context, target: Any, a: Any, b: Any, alpha: float = 1) -> Products | None:
    return add(c, target, a, b, -alpha)


@rule("rsub", on=Products)
def rsub(c: Context, target: Any, a: Any, b: Any, alpha: float = 1) -> Products | None:
    return add(c, target, b, a, -alpha)


def _plus(products: Products, summand: Tensor) -> Products | None:
    if products.weights is not None:
        return None if summand.any() else products
    return replace(products, bias=products.bias + summand)


@rule("masked_fill", on=Products)
def masked_fill(c: Context, target: Any, products: Any, mask: Any, value: Any) -> Products | None:
    return where(c, target, mask, value, products)


@rule("where", on=Products)
def where(c: Context, target: Any, condition: Any, a: Any, b: Any) -> Products | None:
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


@rule("_softmax", on=Products)
def softmax(c: Context, target: Any, products: Products, dim: int, *_: Any) -> Products | None:
    numbers, cols = products.numbers, products.size[2]
    if products.weights is not None or numbers.shape[dim] != cols:
        return None
    step = numbers.stride(dim)
    if step not in (1, cols) and cols > 1:
        return None
    fresh = Weights(step == 1 or cols == 1, torch.ones(1, 1, 1), torch.zeros(1, 1, 1, dtype=torch.bool))
    return replace(products, weights=fresh)


@rule("_safe_softmax", on=Products)
def safe_softmax(c: Context, target: Any, products: Products, dim: int, *_: Any) -> Products | None:
    """A softmax that gives 0 where no key is left."""
    weights = softmax(c, target, products, dim)
    return weights and where(c, target, isnan(c, target, weights), 0.0, weights)


@rule("eq", on=Products)
def eq(c: Context, target: Any, products: Any, value: Any) -> Value | None:
    """A comparison with -infinity, whose result is known: only a mask makes a score so small."""
    if not isinstance(products, Products) or isinstance(value, (Value, Products)) or not math.isinf(value):
        return None
    never = torch.zeros(1, 1, 1, dtype=torch.bool)
    return shown(products, products.bias == value if products.weights is None else never)


@rule("isnan", on=Products)
def isnan(c: Context, target: Any, products: Products) -> Value:
    """Weights are not a number where a row has no key left."""
    weights = products.weights
    if weights is None:
        return shown(products, torch.zeros(1, 1, 1, dtype=torch.bool))
    lost = (products.bias == -math.inf).all(2 if weights.over_cols else 1, keepdim=True)
    return shown(products, lost & ~weights.zeroed)


@rule("isinf", on=Products)
def isinf(c: Context, target: Any, products: Products) -> Value:
    never = torch.zeros(1, 1, 1, dtype=torch.bool)
    return shown(products, products.bias.isinf() if products.weights is None else never)


@rule("ne", on=Products)
def ne(c: Context, target: Any, a: Any, b: Any) -> Value | None:
    return isnan(c, target, a) if a is b else None


@rule("nan_to_num", on=Products)
def nan_to_num(c: Context, target: Any, products: Products, nan: float | None = None, *_: Any) -> Products | None:
    return where(c, target, isnan(c, target, products), nan or 0.0, products)


@rule("bmm", on=Products)
def meet(c: Context, target: Any, a: Any, b: Any) -> Value | None:
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
        values = c.permuted(values, [0, 2, 1])
    result = attention_node(c, products, values)  # (B, L, D)
    return result if weights_first else c.permuted(result, [0, 2, 1])


def _unknown(operand: Any) -> bool:
    return isinstance(operand, Value) and operand.numbers is not None
