"""The boundary of the package: what a public function computes with, and which errors leave it.

Errors whose reason is known are raised where it is known. Whatever else PyTorch, NumPy, a user's module or a user's function
raises is wrapped here, with the layer or the line that raised it and what to do. What a user's callback raises is the user's,
and comes out as it is.
"""

from __future__ import annotations

import functools
import inspect
import threading
import traceback
from collections.abc import Callable, Mapping
from types import FrameType
from typing import ParamSpec, TypeVar

from torch import nn

from ..errors import InternalError, InvalidCall, InvalidInput, PixelfastError, UnsupportedModel, described, like, place_of
from .arithmetic import plain
from .ending import inside, outside

P = ParamSpec("P")
R = TypeVar("R")

_inside = threading.local()


class CallbackFailed(Exception):
    """Carries what a user's callback raised past everything that handles errors."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def callback(function: Callable[P, R]) -> Callable[P, R]:
    """A user's function, whose errors leave the package unchanged."""

    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        was, _inside.yes = getattr(_inside, "yes", False), False
        try:
            with outside():
                return function(*args, **kwargs)
        except Exception as error:
            raise CallbackFailed(error) from error
        finally:
            _inside.yes = was

    return called


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function one that users call.

    It computes plainly (`arithmetic`), lets out no errors but ours and those of callbacks, and is left when the interpreter
    ends (`ending`).
    """

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if getattr(_inside, "yes", False):
            return function(*args, **kwargs)
        _inside.yes = True
        try:
            with inside(), plain():
                return function(*args, **kwargs)
        except (PixelfastError, MemoryError):
            raise
        except CallbackFailed as carrier:
            failed = carrier.error
        except Exception as error:
            if isinstance(error, TypeError) and error.__traceback__ and not error.__traceback__.tb_next:
                raise _not_callable_so(function, kwargs, error) from None
            raise wrapped(error, function.__name__) from error
        finally:
            _inside.yes = False
        raise failed

    return called


def wrapped(error: Exception, name: str) -> PixelfastError:
    """Our error for one that is not ours: who raised it, where, and what to do.

    Args:
        name: of the public function that was called.
    """
    where = place_of(error)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if layer := next((found for frame in reversed(frames) if (found := _layer(frame, frames))), ""):
        return UnsupportedModel(
            f"{layer} raised {described(error)} ({where}), called by {name}(): pixelfast runs the module as it is, in eval "
            "mode, on the images that it draws, and on zeros and random values. Does it run on any number of such images of "
            "this shape, with these conditions?"
        )
    if any(frame.f_code.co_filename == where.rpartition(", line ")[0] for frame in frames[2:]):
        return InvalidInput(f"a function or an object that {name}() was given raised {described(error)} ({where})")
    return InternalError(
        f"{name}() met what it did not expect: {described(error)}. Is anything about the model or an argument unusual, its "
        "type or its device? What pixelfast does not refuse in words of its own is a bug of it: please report this with "
        "the model"
    )


def _not_callable_so(function: Callable[..., object], kwargs: Mapping[str, object], error: TypeError) -> InvalidCall:
    """The error for arguments that a function does not take."""
    known = [name for name in inspect.signature(function).parameters if name != "self"]
    near = "".join(like(name, known) for name in kwargs if name not in known)
    return InvalidCall(f"{error}{near}; it takes {', '.join(known)}")


def _layer(frame: FrameType, frames: list[FrameType]) -> str:
    """The layer whose forward a frame is, named as by the outermost module that runs; "" for other frames."""
    layer = frame.f_locals.get("self")
    if not isinstance(layer, nn.Module) or frame.f_code.co_name.startswith("__"):
        return ""
    root = next(found for other in frames if isinstance(found := other.f_locals.get("self"), nn.Module))
    name = next((name for name, child in root.named_modules() if child is layer), "")
    return f"layer {name!r} ({type(layer).__name__})" if name else f"the forward of {type(layer).__name__}"
