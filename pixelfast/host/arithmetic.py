"""Plain arithmetic: IEEE float32 without gradients, whatever PyTorch's switches and the caller's contexts say.

A GPU may multiply with the ten bits of TF32, a processor with the seven of bfloat16, and autocast, default types and default
devices change what a forward computes. The model as it was trained is none of these: what is traced, scored and drawn must not
depend on them. Switches that are global to the process are turned while at least one thread is within `plain`, and turned back
when the last one leaves.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from .locks import Lock

Switch = tuple[Callable[[], Any], Callable[[Any], None], Any]
"""How to read a switch, how to set it, and what it must be."""

_lock = Lock()
_forward = Lock()
"""Held by forwards where the default type is turned for some of them: it is one for all threads."""
_inside = 0
_before: list[tuple[Callable[[Any], None], Any]] = []
_dtype = torch.float32
"""The default type before the switches were turned."""
_caller = threading.local()
"""The default device of the thread's caller, while the thread is within `plain`."""


def _attribute(owner: Any, name: str, wanted: Any) -> Switch:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value), wanted


@functools.cache
def _switches() -> list[Switch]:
    """PyTorch's switches, older ones first: setting those changes newer ones, which say more.

    The matmul precision sets `torch.backends.cuda.matmul.allow_tf32`, too.
    """
    cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
    parts = [torch.backends.cuda.matmul]
    parts += [part for owner in (cudnn, mkldnn) for name in ("matmul", "conv", "rnn") if (part := getattr(owner, name, None))]
    return [
        (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
        _attribute(cudnn, "allow_tf32", False),
        *(_attribute(part, "fp32_precision", "ieee") for part in parts),
    ]


def _turn() -> list[tuple[Callable[[Any], None], Any]]:
    """Turn all switches; returns how to undo that, in order."""
    result = []
    for read, write, wanted in _switches():
        try:
            result.append((read, write, read(), wanted))
        except (RuntimeError, AttributeError):  # PyTorch refuses to read an old switch where a new one contradicts it
            continue
    if all(value == wanted for _, _, value, wanted in result):
        return []
    for _, write, value, wanted in result:
        if value != wanted:
            write(wanted)
    return [(write, value) for _, write, value, _ in result]


@contextmanager
def _global_switches() -> Iterator[None]:
    global _inside, _before, _dtype
    with _lock:
        if not _inside:
            _dtype = torch.get_default_dtype()
            _before = _turn()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                for write, value in _before:
                    write(value)


def _in_child() -> None:
    """After a fork, this thread is the only one."""
    global _inside
    inside, _inside = _inside, int(getattr(_caller, "device", None) is not None)
    if inside and not _inside:
        for write, value in _before:
            write(value)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


@contextmanager
def plain() -> Iterator[None]:
    """No gradients, no inference tensors, no autocast, IEEE float32, new tensors in float32 on the processor."""
    if getattr(_caller, "device", None) is not None:  # this thread is inside already
        yield
        return
    device = torch.get_default_device()
    with ExitStack() as stack:
        stack.enter_context(_global_switches())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for kind in {"cpu", "cuda", device.type}:
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        _caller.device = device
        try:
            yield
        finally:
            _caller.device = None


@contextmanager
def as_made(module: nn.Module) -> Iterator[None]:
    """For forwards: new tensors have the default type and device of the caller if these are the module's own.

    A module that was made under such a default counts on it wherever its forward makes a tensor.
    """
    device = getattr(_caller, "device", None)
    if (device is None or device.type == "cpu") and _dtype == torch.float32:
        yield
        return
    tensors = [*module.parameters(), *module.buffers()]
    own = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    with ExitStack() as stack:
        if _dtype != torch.float32:
            stack.enter_context(_forward)
        if device is not None and device.type != "cpu" and any(tensor.device.type == device.type for tensor in tensors):
            stack.enter_context(device)
        before = torch.get_default_dtype()
        if _inside and _dtype in own and torch.float32 not in own and before != _dtype:
            stack.callback(torch.set_default_dtype, before)
            torch.set_default_dtype(_dtype)
        yield
