"""What code reaches in Python modules, however it gets there, belongs to what a module holds."""

from __future__ import annotations

import builtins
import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pixelfast.host.contents import contents, module_contents
from pixelfast.host.surroundings import Surroundings

GAIN = 1.0


class Kind(type):
    gain = 1.0


class OfKind(metaclass=Kind):
    pass


def in_a_package(_: Any) -> Any:
    return PACKAGE.options.GAIN  # type: ignore[name-defined]  # noqa: F821


def imported(_: Any) -> Any:
    import settings.options  # type: ignore[import-not-found]

    return settings.options.GAIN


def imported_by_name(_: Any) -> Any:
    from settings.options import GAIN as gain

    return gain


def relative(_: Any) -> Any:
    from . import options  # type: ignore[attr-defined]

    return options.GAIN


def closed_over(settings: types.ModuleType) -> Callable[[Any], Any]:
    return lambda _: settings.options.GAIN


def an_argument(_: Any, settings: Any = None) -> Any:
    return read(settings)


def read(settings: Any) -> Any:
    return settings.options.GAIN


def looked_up(_: Any) -> Any:
    return sys.modules["settings.options"].GAIN


def by_importlib(_: Any) -> Any:
    return importlib.import_module("settings.options").GAIN


def its_own_globals(_: Any) -> Any:
    return globals()["GAIN"]


def itself_looked_up(_: Any) -> Any:
    return sys.modules[__name__].GAIN  # type: ignore[attr-defined]


def of_a_metaclass(_: Any) -> Any:
    return OfKind.gain


def built_in(_: Any) -> Any:
    return BUILT_IN  # type: ignore[name-defined]  # noqa: F821


def evaluated(_: Any) -> Any:
    return eval("GAIN + 0")


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A package of the user's with one module in it."""
    package, options = types.ModuleType("settings"), types.ModuleType("settings.options")
    package.__path__, package.options = [], options  # type: ignore[attr-defined]
    options.GAIN, options.UNREAD = 1.0, 1.0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "settings", package)
    monkeypatch.setitem(sys.modules, "settings.options", options)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", package, raising=False)
    monkeypatch.setattr(builtins, "BUILT_IN", 1.0, raising=False)
    return package


def in_the_package(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    inside = {**globals(), "__package__": "settings"}
    return types.FunctionType(function.__code__, inside, function.__name__)


WAYS: dict[str, Callable[[types.ModuleType], Callable[[Any], Any]]] = {
    "in a package": lambda _: in_a_package,
    "imported": lambda _: imported,
    "imported by name": lambda _: imported_by_name,
    "relative": lambda _: in_the_package(relative),
    "closed over": closed_over,
    "an argument": lambda settings: types.FunctionType(an_argument.__code__, globals(), "", (settings,)),
    "looked up": lambda _: looked_up,
    "by importlib": lambda _: by_importlib,
    "its own globals": lambda _: its_own_globals,
    "itself looked up": lambda _: itself_looked_up,
    "of a metaclass": lambda _: of_a_metaclass,
    "built in": lambda _: built_in,
}


@pytest.mark.parametrize("way", WAYS)
def test_whatever_way_code_gets_at_a_value_a_change_is_noticed(
    way: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * self.gain(self)

    Net.gain = staticmethod(WAYS[way](settings))  # type: ignore[attr-defined]
    net = Net()
    before = module_contents(net)
    assert before.certain
    monkeypatch.setattr(settings.options, "UNREAD", 2.0)
    monkeypatch.setattr(settings, "UNREAD", 2.0, raising=False)
    assert module_contents(net) == before
    assert net(torch.ones(1)) == 1
    monkeypatch.setattr(settings.options, "GAIN", 2.0)
    monkeypatch.setattr(sys.modules[__name__], "GAIN", 2.0)
    monkeypatch.setattr(Kind, "gain", 2.0)
    monkeypatch.setattr(builtins, "BUILT_IN", 2.0)
    assert net(torch.ones(1)) == 2
    assert module_contents(net) != before


def test_what_evaluated_texts_read_is_not_known() -> None:
    assert not contents(evaluated).certain


def test_what_a_forward_leaves_in_a_python_module_is_put_back(settings: Any) -> None:
    class Counts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            settings.options.calls = getattr(settings.options, "calls", 0) + 1
            settings.options.GAIN = x
            return x

    net = Counts()
    with Surroundings(net).kept():
        net(torch.ones(1))
        settings.options.UNREAD = "by another thread"
    assert vars(settings.options).get("calls") is None
    assert settings.options.GAIN == 1
    assert settings.options.UNREAD == "by another thread"
