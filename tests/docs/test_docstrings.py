"""What users call has an example in its docstring, and it runs."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import pixelfast

MODULES = (pixelfast, pixelfast.models, pixelfast.data, pixelfast.debug, pixelfast.pictures)
FOUND = (pixelfast.Report, pixelfast.Verification, pixelfast.debug.Difference, pixelfast.data.Dataset)
"""What calls give; their docstrings say what is in it."""


def public(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Functions and classes that users call, by their names, errors apart."""
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isfunction(value) or (inspect.isclass(value) and not issubclass(value, (Exception, *FOUND))):
            yield f"{module.__name__}.{name}", value


CALLED = dict(pair for module in MODULES for pair in public(module))


@pytest.mark.parametrize("name", CALLED)
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {"pixelfast": pixelfast, "torch": torch, "nn": nn}
    tests = doctest.DocTestFinder(recurse=False).find(CALLED[name], name, globs=names)
    assert tests, f"{name} has no docstring"
    assert tests[0].examples, f"{name} has no example in its docstring"
    report: list[str] = []
    doctest.DocTestRunner(verbose=False).run(tests[0], out=report.append)
    assert not report, "".join(report)
