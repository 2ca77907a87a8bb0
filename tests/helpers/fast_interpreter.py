"""Makes Triton's interpreter several times as fast; imported by tests/conftest.py where TRITON_INTERPRET=1 is set."""

from __future__ import annotations

from typing import Any

from triton.runtime import interpreter

# It checks every sum of integers for overflow ...
interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)

# ... and, whenever a kernel calls a function, replaces all of Triton's own functions, though the kernel's start did so.
_replaced: set[str] = set()


def _call(self: Any, *args: Any, **kwargs: Any) -> Any:
    module = self.fn.__module__
    if module.startswith("triton") and module not in _replaced:
        _replaced.add(module)
        interpreter._patch_lang(self.fn)
    return self.rewrite()(*args, **kwargs)


interpreter.InterpretedFunction.__call__ = _call
