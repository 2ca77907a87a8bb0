"""Export: a graph of `torch.export` in core ATen operations without in-place ones, and the tensors that it takes in."""

from __future__ import annotations

import functools
import logging
import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind, InputSpec

from ..errors import UnsupportedModel
from ..ops.recurrence import OPERATOR

ALSO_CORE = {
    torch.ops.aten.detach.default,
    torch.ops.aten.native_batch_norm.default,
    OPERATOR,
}
"""Operations that change nothing in place and need no decomposition, though PyTorch does not call them core."""


def decomposed(program: torch.export.ExportedProgram) -> tuple[fx.GraphModule, torch.export.ExportedProgram]:
    """An exported graph in core ATen operations, none of them in place, and the program whose inputs and outputs it has.

    `run_decompositions` does that for any graph, but traces twice and copies much, to prepare for training. Most graphs need
    one trace, which takes a third of the time; whether it was enough shows in what it gave.
    """
    _drop_checks(program.graph)
    if all(map(_is_aten, program.graph.nodes)):
        traced = _functional(program.graph_module)
        _drop_checks(traced.graph)
        if all(map(_is_core, traced.graph.nodes)):
            return traced, program
    program = program.run_decompositions()
    _drop_checks(program.graph)
    return program.graph_module, program


def _drop_checks(graph: fx.Graph) -> None:
    """Take the module's own assertions out, with what only they read: they held when the module ran eagerly."""
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target._opname.startswith(("_assert", "sym_constrain")):
            graph.erase_node(node)
    graph.eliminate_dead_code(lambda node: node.is_impure() or not _computes(node))


def _computes(node: fx.Node) -> bool:
    """Whether a node is an ATen operation or Python's arithmetic, and does not change PyTorch's own state."""
    return _is_aten(node) or node.op == "get_attr" or getattr(node.target, "__module__", "") in ("_operator", "math", "torch")


def _functional(exported: fx.GraphModule) -> fx.GraphModule:
    """A graph of ATen operations without in-place ones, except within operations that PyTorch composes of such."""
    from torch.fx.experimental.proxy_tensor import make_fx

    inputs = [node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder"]
    with fx.traceback.preserve_node_meta():  # the layers' names
        functional = torch.func.functionalize(fx.Interpreter(exported).run)
        traced = make_fx(functional, _decompositions(), tracing_mode="fake")(*inputs)
    for node in traced.graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default):
        if node.args[0].op == "placeholder":  # the forward wrote that into weights and buffers when it ran eagerly, too
            traced.graph.erase_node(node)
    return traced


@functools.cache
def _decompositions() -> dict[Any, Any]:
    """PyTorch's table, which it makes anew at every call: a tenth of the time to compile a small model.

    An operation that is registered later is missing in it, so it is not core, and its graph goes through `run_decompositions`.
    """
    return dict(torch.export.default_decompositions())


def _is_aten(node: fx.Node) -> bool:
    """Whether a node neither calls another graph nor changes PyTorch's own state, as vmap and autocast do."""
    if node.op == "call_function":
        return isinstance(node.target, torch._ops.OpOverload) or node.target is operator.getitem
    return node.op in ("placeholder", "output")


def _is_core(node: fx.Node) -> bool:
    """Whether a node is a core ATen operation, which works on nothing in place, or one that is as good as that."""
    if node.op != "call_function" or node.target is operator.getitem:
        return True
    target: Any = node.target
    return torch.Tag.core in target.tags or target in ALSO_CORE


def sources_of(root: fx.GraphModule, program: torch.export.ExportedProgram) -> dict[str, Tensor | None]:
    """For each placeholder of `root` the weight, buffer or constant that it stands for; None for image and conditions.

    `root` has the placeholders of the program's graph, in their order, by other names perhaps. The signature need not list
    them in that order, nor the program before decomposition, which lifts constants elsewhere: its entries go by name.
    """
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    names = [node.name for node in root.graph.nodes if node.op == "placeholder"]
    exported = [node.name for node in program.graph.nodes if node.op == "placeholder"]
    return {name: _source(program, specs[own]) for name, own in zip(names, exported, strict=True)}


def _source(program: torch.export.ExportedProgram, spec: InputSpec) -> Tensor | None:
    if spec.kind == InputKind.USER_INPUT or spec.target is None:
        return None
    kept = spec.kind == InputKind.PARAMETER or (spec.kind == InputKind.BUFFER and spec.persistent is not False)
    value = (program.state_dict if kept else program.constants).get(spec.target)
    if not isinstance(value, Tensor):
        raise UnsupportedModel(f"the module reads {spec.target!r}, which is no tensor but {type(value).__name__}")
    return value.detach()


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, no log lines and no printed graphs from export: what matters of them is in our own errors."""
    from torch.export import _trace

    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    printing = vars(_trace)
    printing["print"] = lambda *_, **__: None  # it shows the graph that it had when an error came
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        del printing["print"]
