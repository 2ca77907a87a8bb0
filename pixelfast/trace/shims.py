"""Three idioms that tracers choke on, replaced while a module is traced.

They are safe only after the module has run eagerly once: masks written into weights, lazy buffers and caches are then
in place, and a second writing of the same mask changes nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

_DATA_GET = torch.Tensor.data.__get__  # type: ignore[attr-defined]
_DATA_SET = torch.Tensor.data.__set__  # type: ignore[attr-defined]
_ONE_HOT = (torch.nn.functional.one_hot, torch._C._nn.one_hot)


class TracingShims(TorchFunctionMode):
    """`.data` reads give a detached copy, `.data` writes do nothing, `one_hot` becomes a comparison with `arange`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == _DATA_GET:
            return args[0].detach().clone()
        if func == _DATA_SET:
            return None
        if func in _ONE_HOT:
            index = args[0]
            classes = args[1] if len(args) > 1 else kwargs.get("num_classes", -1)
            if classes >= 0:
                return (index.unsqueeze(-1) == torch.arange(classes, device=index.device)).to(torch.int64)
        return func(*args, **kwargs)


def bake_weight_norm(module: torch.nn.Module) -> None:
    """Replace weight_norm, hook style and parametrization, by the weight it gives.

    `weight_g` and `weight_v` stay, because some forwards write their mask into `weight_v.data`.
    """
    for child in module.modules():
        for key, hook in list(child._forward_pre_hooks.items()):
            if type(hook).__name__ != "WeightNorm":
                continue
            norm: Any = hook
            weight = norm.compute_weight(child).detach().clone()
            del child._forward_pre_hooks[key]
            child.__dict__.pop(norm.name, None)
            child.register_buffer(norm.name, weight, persistent=False)
        if parametrize.is_parametrized(child):
            # `remove_parametrizations` would edit the class, which a copy shares with the user's module.
            values = {name: getattr(child, name).detach().clone() for name in child.parametrizations}  # type: ignore[union-attr]
            child.__class__ = type(child).__bases__[0]
            for name, value in values.items():
                child.register_buffer(name, value, persistent=False)
