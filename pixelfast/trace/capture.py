"""Capture: any user's module, untouched, as a functional graph of ATen operations with its weights.

The order of the steps matters, and each is there because a published model needs it:
1. a deep copy in eval mode: the user's module is never run, switched or written to;
2. one eager forward at exactly the shape to be exported: it applies masks that forwards write into weights, creates lazy
   buffers and fills caches, which export would otherwise miss or poison with fake tensors;
3. a second forward that must agree with the first: a forward with a memory cannot be sampled;
4. `weight_norm` baked, then `torch.export` (non-strict) under shims, then core ATen operations without in-place ones.
"""

from __future__ import annotations

import inspect
import traceback
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import OutputKind

from ..distributions.base import Head
from ..errors import EngineUnavailable, InvalidInput, NumericalError, UnsupportedModel, described
from ..host.arithmetic import as_made, plain
from ..host.copying import independent_copy
from ..host.forking import pause, refuse_half_way
from ..host.locks import Lock
from ..host.surroundings import Surroundings, same_randomness
from ..inputs.arguments import unreadable
from ..inputs.conditions import Conditions
from .export import decomposed, quiet, sources_of
from .index import IMAGES
from .shims import TracingShims, bake_weight_norm

_TRACING = Lock(forks_wait=True)
"""torch.export keeps its state in globals, and patches calls of modules meanwhile: one thread at a time may trace."""

NODE_LIMIT = 20_000
"""Above this many operations a graph comes from a Python loop over pixels, which is not worth unrolling."""


@dataclass(frozen=True)
class Capture:
    """A functional ATen graph, and concrete values for everything that it takes in.

    Attributes:
        graph: the FX graph; placeholders and one output.
        constants: placeholder name -> tensor, for weights, buffers and constants that are read.
        image: name of the placeholder of the image, or None if the model ignores it.
        conditions: placeholder names of the condition tensors, in order.
        example: the encoded images (2, C, H, W) of the trace.
        example_conditions: the condition tensors of the trace.
        result: name of the node that is the module's output; others are what its forward writes into weights and buffers.
        root: the exported module, which nested targets in the graph refer to.
    """

    graph: torch.fx.Graph
    constants: dict[str, Tensor]
    image: str | None
    conditions: tuple[str, ...]
    example: Tensor
    example_conditions: tuple[Tensor, ...]
    result: str
    root: nn.Module

    def __str__(self) -> str:
        """What goes in, and a line for each operation."""
        lines = [f"captured for images {tuple(self.example.shape)}"]
        for node in self.graph.nodes:
            if node.op == "call_function":
                where = f"  # {layer_of(node)}" if layer_of(node) else ""
                lines.append(f"  {node.name} = {node.target}({', '.join(map(str, node.args))}){where}")
            elif node.op == "placeholder" and node.users:
                tensor = self.constants.get(node.name)
                kind = "the image" if node.name == self.image else "a condition" if tensor is None else "known"
                lines.append(f"  {node.name}: {kind}, {tuple(node.meta['val'].shape)}")
        return "\n".join(lines)


def layer_of(node: fx.Node) -> str:
    """The user's submodule that an operation belongs to, as in `named_modules()`."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()), ("", ""))[0] if stack else ""
    return path.removeprefix("module").removeprefix(".")


def frozen_copy(module: nn.Module) -> nn.Module:
    """A deep copy in eval mode, without gradients; the module itself stays as it is.

    Raises:
        UnsupportedModel: the module cannot be copied.
        NumericalError: a weight is NaN or infinite.
    """
    clone = independent_copy(module).eval()
    for parameter in clone.parameters():  # scripted modules refuse this for all at once
        parameter.requires_grad_(False)
    for name, parameter in clone.named_parameters():
        if not torch.isfinite(parameter).all():
            bad = int((~torch.isfinite(parameter)).sum())
            raise NumericalError(
                f"the weight {name!r} of {type(module).__name__} holds {bad} NaN or infinite values of {parameter.numel()}: "
                "no distribution can come out of it; load a checkpoint from before training diverged"
            )
    return clone


def first_output(output: Any, module: nn.Module) -> Tensor:
    """The tensor that counts: the output itself, or the first item of a tuple, list or dict."""
    while isinstance(output, (tuple, list, dict)) and len(output):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    if not isinstance(output, Tensor):
        raise UnsupportedModel(
            f"{type(module).__name__} gives {type(output).__name__}: a tensor, or a tuple whose first item is one, is needed"
        )
    reason = "is complex" if output.is_complex() else unreadable(output)
    if reason is not None:
        raise UnsupportedModel(f"the output of {type(module).__name__} {reason}")
    return output


def call(module: nn.Module, inputs: Tensor, conditions: Conditions) -> Tensor:
    """One forward: the module's own `__call__`, its first output, without gradients; the image comes in the type it takes."""
    refuse_half_way()
    pause()
    with same_randomness():
        return _accepted(module, inputs, conditions)[1]


def _accepted(module: nn.Module, inputs: Tensor, conditions: Conditions) -> tuple[Tensor, Tensor]:
    """The image in the first of `_types` with which a forward runs, and what that gives."""
    refused: RuntimeError | None = None
    for dtype in _types(module, inputs):
        image = inputs.to(dtype)
        try:
            with plain(), as_made(module):
                args, kwargs = conditions.passed()
                return image, first_output(module(image, *args, **kwargs), module)
        except RuntimeError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _types(module: nn.Module, inputs: Tensor) -> list[torch.dtype]:
    """The types in which a module may take its image: an encoding in floating point is converted to the module's own type.

    Where weights and buffers have several types, nothing says in which of them the module begins. Most begin in float32.
    """
    if not inputs.is_floating_point():
        return [inputs.dtype]
    tensors = (*module.parameters(), *module.buffers())
    own = {tensor.dtype for tensor in tensors if tensor.is_floating_point()} or {inputs.dtype}
    return sorted(own, key=lambda dtype: (dtype != inputs.dtype, str(dtype)))


def blank_output(module: nn.Module, head: Head, shape: tuple[int, int, int], conditions: Conditions) -> Tensor:
    """What a module gives for two images of zeros."""
    return output_of(module, head, torch.zeros(IMAGES, *shape, dtype=torch.int64), conditions)


def accepted_reading(module: nn.Module, head: Head, shape: tuple[int, int, int], readings: list[Conditions]) -> int:
    """The number of the first reading of some conditions that a frozen module accepts.

    Raises:
        InvalidInput: it accepts none; the message is what it said about the first.
    """
    refused: list[InvalidInput] = []
    for number, reading in enumerate(readings if len(readings) > 1 else ()):
        try:
            blank_output(module, head, shape, reading)
        except InvalidInput as error:
            refused.append(error)
        else:
            return number
    if refused:
        raise refused[0]
    return 0


def output_of(module: nn.Module, head: Head, images: Tensor, conditions: Conditions) -> Tensor:
    """What a module gives for two integer images (2, C, H, W), wherever it is."""
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    inputs = head.encode_images(images).to(device)
    _, channels, height, width = images.shape
    refuse_half_way()
    with Surroundings(module).kept():
        return _eager(module, inputs, two_images(conditions).to(device), (channels, height, width))[1]


class _Wrapper(nn.Module):
    """Calls the module under the shims, with the conditions' tensors as a list of inputs."""

    def __init__(self, module: nn.Module, conditions: Conditions) -> None:
        super().__init__()
        self.module = module
        self.conditions = conditions

    def forward(self, inputs: Tensor, tensors: list[Tensor]) -> Tensor:
        queue = iter(tensors)
        conditions = self.conditions.map(lambda _: next(queue))
        with TracingShims():
            args, kwargs = conditions.passed()
            return first_output(self.module(inputs, *args, **kwargs), self.module)


def capture(module: nn.Module, shape: tuple[int, int, int], head: Head, conditions: Conditions) -> Capture:
    """Capture a module that `frozen_copy` gave. `conditions` are those of an example call with any number of images.

    Raises:
        InvalidInput: the module refuses the image or the conditions.
        UnsupportedModel: the forward keeps a memory, or cannot be traced.
        EngineUnavailable: this process was forked in the middle of a trace, or of a forward.
    """
    refuse_half_way()
    with _TRACING:
        if _TRACING.interrupted:
            raise EngineUnavailable(
                "this process was forked while another thread was compiling, which left PyTorch's tracer half-way: compile "
                "before forking, or start processes with multiprocessing.get_context('spawn')"
            )
        copied = independent_copy(module).cpu()
        with Surroundings(copied).kept():
            return _capture(copied, shape, head, conditions)


def _capture(module: nn.Module, shape: tuple[int, int, int], head: Head, conditions: Conditions) -> Capture:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(head.levels, (IMAGES, *shape), generator=generator)
    inputs = head.encode_images(images)
    example = two_images(conditions)
    inputs, output = _eager(module, inputs, example, shape)
    _, again = _accepted(module, inputs, example)  # with other random numbers
    if not _agree(output, again):
        raise UnsupportedModel(
            f"{type(module).__name__} gave two different outputs for the same images, in eval mode: its forward keeps a "
            "memory or draws random numbers, so no two sub-pixels would be drawn from the same model"
        )
    del output, again  # hundreds of megabytes, for large images
    bake_weight_norm(module)
    wrapper = _Wrapper(module, example)
    tensors = [tensor for _, tensor in example.tensors()]
    try:
        with plain(), as_made(module), quiet():
            program = torch.export.export(wrapper, (inputs, tensors), strict=False)
            if (count := len(program.graph.nodes)) <= NODE_LIMIT:
                root, program = decomposed(program)
    except Exception as error:
        if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
            raise UnsupportedModel(
                f"{type(module).__name__} holds layers of TorchScript, which torch.export does not take: pass the module that "
                'they were made from. engine="naive" samples them as they are, slowly'
            ) from error
        raise UnsupportedModel(
            f"{type(module).__name__} cannot be traced: {described(error)}. Usual reasons: Python control flow that looks at "
            "values of the image, of conditions, or of what was computed from weights or buffers (if mask.any():), or .item() "
            'in forward. engine="naive" samples such a module, slowly'
        ) from error
    if count > NODE_LIMIT:
        raise UnsupportedModel(
            f"{type(module).__name__} unrolls into {count} operations (more than {NODE_LIMIT}): a Python loop over pixels, as "
            'in a recurrence (pixelfast.lstm_scan is one over LSTM states); engine="naive" samples it, slowly'
        )
    sources = sources_of(root, program)
    users = [name for name, source in sources.items() if source is None]
    kinds = [spec.kind for spec in program.graph_signature.output_specs]
    read = {node.name for node in root.graph.nodes if node.users}  # what weight_norm was baked from is not, and is large
    return Capture(
        graph=root.graph,
        constants={name: source for name, source in sources.items() if source is not None and name in read},
        image=users[0],
        conditions=tuple(users[1:]),
        example=inputs,
        example_conditions=tuple(tensors),
        result=str(root.graph.output_node().args[0][kinds.index(OutputKind.USER_OUTPUT)]),  # type: ignore[index, arg-type]
        root=root,
    )


def two_images(conditions: Conditions) -> Conditions:
    """The conditions of an example call cut or repeated to the two images of the trace."""
    lengths = {tensor.shape[0] for _, tensor in conditions.tensors() if tensor.dim()} - {1}
    if len(lengths) > 1:
        found = ", ".join(f"{name}: {tuple(tensor.shape)}" for name, tensor in conditions.tensors())
        raise InvalidInput(f"the conditions disagree about the number of images: {found}; first axes must be equal, or 1")
    n = lengths.pop() if lengths else 1
    return conditions.map(lambda tensor: tensor.detach().cpu()).rows(torch.tensor([0, n - 1]), n)


def _eager(module: nn.Module, inputs: Tensor, conditions: Conditions, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """One forward, with the image in the type that the module takes, which comes along."""
    try:
        return _accepted(module, inputs, conditions)
    except UnsupportedModel:
        raise
    except InvalidInput as error:
        layer = _layer_of(error, module)
        raise InvalidInput(f"{error} (in layer {layer!r})" if layer else str(error)) from error
    except Exception as error:
        types = " or ".join(map(str, _types(module, inputs)))
        raise InvalidInput(
            f"{type(module).__name__} does not accept images of shape (N, {', '.join(map(str, shape))}) as {types} with "
            f"{conditions}: {described(error)}. Its forward is {type(module).__name__}"
            f"{_signature(module)}: check shape=, the head's encode=, and cond="
        ) from error


def _layer_of(error: Exception, module: nn.Module) -> str:
    """The innermost submodule whose forward raised an error; "" for the module itself."""
    names = {id(child): name for name, child in module.named_modules()}
    callers = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((names[id(caller)] for caller in reversed(callers) if id(caller) in names), "")


def _agree(output: Tensor, again: Tensor) -> bool:
    """Whether two outputs are the same but for rounding; by pieces, since a comparison makes copies."""
    pieces = zip(output.reshape(-1).split(1 << 22), again.reshape(-1).split(1 << 22), strict=True)
    return output.shape == again.shape and all(torch.allclose(a, b, rtol=1e-4, atol=1e-4, equal_nan=True) for a, b in pieces)


def _signature(module: nn.Module) -> str:
    try:
        return str(inspect.signature(module.forward))
    except (TypeError, ValueError):
        return "(...)"
