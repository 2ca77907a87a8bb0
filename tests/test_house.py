"""The house: imports run down from room to room, none goes round in a circle, and what is private stays in its room."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from processes import run_script

import pixelfast

ROOT = Path(pixelfast.__file__).parent
KERNELS = ROOT.parent / "kernels"

FLOORS = (
    {"errors"},
    {"host", "precision", "progress"},
    {"distributions"},
    {"ir"},
    {"inputs", "ops", "kernels"},
    {"causality", "passes", "trace"},
    {"lowering"},
    {"pipeline"},
    {"engines", "models", "readings"},
    {"files", "prepared", "verify"},
    {"self_check"},
    {"data", "sampler"},
    {"api", "check", "debug", "pictures", "training"},
    {"__init__"},
    {"cli"},
)
"""Rooms from the ground up: a folder of pixelfast/, or a file at its root. Each imports only what lies below it."""
MOST_FILES = 14
"""At the root of pixelfast/, where a reader looks first."""


class Import(NamedTuple):
    """`name` of the module `target`, imported by the module `by`; modules without "pixelfast.", `name` None for a whole one."""

    by: str
    target: str
    name: str | None
    line: int

    def __str__(self) -> str:
        return f"{self.by}:{self.line} imports {self.name or 'all'} of {self.target}"


def modules() -> dict[str, Path]:
    """Every module by its dotted name; a package stands under its own name."""
    result = {}
    for root, prefix in ((ROOT, ()), (KERNELS, ("kernels",))):
        for file in root.rglob("*.py"):
            parts = (*prefix, *file.relative_to(root).with_suffix("").parts)
            result[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = file
    return result


MODULES = modules()


def imports(module: str, text: str) -> Iterator[Import]:
    """All imports of a module from the package: those within functions, and those for types, too."""
    package = module.split(".")
    if MODULES[module].name != "__init__.py" or module == "__init__":
        package = package[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "pixelfast":
                    yield Import(module, alias.name.partition(".")[2] or "__init__", None, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            said = node.module.split(".") if node.module else []
            if not node.level:
                if said[0] != "pixelfast":
                    continue
                base = said[1:]
            else:
                base = package[: len(package) - node.level + 1] + said
            for alias in node.names:
                whole = ".".join([*base, alias.name])
                if whole in MODULES:
                    yield Import(module, whole, None, node.lineno)
                else:
                    yield Import(module, ".".join(base) or "__init__", alias.name, node.lineno)


ALL = [found for module, file in MODULES.items() for found in imports(module, file.read_text(encoding="utf-8"))]


def room(module: str) -> str:
    return module.split(".")[0]


def floor(module: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room(module) in rooms)


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in MODULES} == set().union(*FLOORS)


def test_imports_go_down() -> None:
    outside = [found for found in ALL if room(found.by) != room(found.target)]
    assert [str(found) for found in outside if floor(found.target) >= floor(found.by)] == []


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that are left once those are taken away, again and again, that import nothing of what is left."""
    left = set(arrows)
    while done := {module for module in left if not arrows[module] & left}:
        left -= done
    return sorted(left)


def test_no_circle_within_a_room() -> None:
    for name in set().union(*FLOORS):
        own = {module for module in MODULES if room(module) == name}
        arrows = {module: {found.target for found in ALL if found.by == module} & own for module in own}
        assert circles(arrows) == [], f"modules of {name} import each other in a circle"


def test_no_private_name_leaves_its_room() -> None:
    private = [found for found in ALL if found.name and found.name.startswith("_") and not found.name.startswith("__")]
    assert [str(found) for found in private if room(found.by) != room(found.target)] == []


def test_the_root_is_small() -> None:
    assert len(list(ROOT.glob("*.py"))) <= MOST_FILES


def test_what_is_public_is_shown_and_nothing_else() -> None:
    assert sorted(dir(pixelfast)) == sorted([*pixelfast.__all__, "__version__"])
    assert {name for name in pixelfast.__all__ if isinstance(getattr(pixelfast, name), ModuleType)} == {
        "data",
        "debug",
        "models",
        "pictures",
    }


BARE = """
    import sys

    # As on a machine that has the checkout and nothing of pixelfast installed.
    sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder)]
    sys.path = [sys.argv[1], *(path for path in sys.path if "__editable__" not in path)]
    import pixelfast.kernels

    print("package", pixelfast.__file__)
    print("kernels", pixelfast.kernels.__file__)
"""


def test_a_bare_checkout_imports() -> None:
    checkout = ROOT.parent
    if not KERNELS.is_dir():
        pytest.skip("this is an installation, not a checkout")
    found = run_script(BARE, str(checkout))
    assert found == {"package": str(ROOT / "__init__.py"), "kernels": str(KERNELS / "__init__.py")}


@pytest.mark.parametrize(
    ("module", "text", "target", "name"),
    [
        ("ir.graph", "from ..trace.capture import capture", "trace.capture", "capture"),
        ("ir.graph", "from .. import api", "api", None),
        ("ir.graph", "from . import program", "ir.program", None),
        ("ir.graph", "if TYPE_CHECKING:\n    from pixelfast.trace import capture", "trace.capture", None),
        ("ir.graph", "def f():\n    import pixelfast.cli", "cli", None),
        ("api", "from .sampler import Sampler", "sampler", "Sampler"),
        ("cli.main", "from .. import __version__", "__init__", "__version__"),
        ("kernels.draw", "from ..ir.program import Draw", "ir.program", "Draw"),
        ("kernels", "from . import draw", "kernels.draw", None),
    ],
)
def test_imports_are_found(module: str, text: str, target: str, name: str | None) -> None:
    assert [found[1:3] for found in imports(module, text)] == [(target, name)]


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"e"}}) == ["a", "b", "c"]
