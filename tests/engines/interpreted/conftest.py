"""Settings of the tests whose kernels run in Triton's interpreter: TRITON_INTERPRET=1 was set before Triton was imported.

They are a process of their own, started by tests/engines/test_interpreted.py, since a process has either the interpreter or the
compiler.
"""

from __future__ import annotations

from typing import Any

import pytest
from triton.runtime import interpreter

# What follows makes the interpreter several times as fast. It checks every sum of integers for overflow ...
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Masked lanes divide 0 by 0 and are thrown away; NumPy says so.
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning"))
