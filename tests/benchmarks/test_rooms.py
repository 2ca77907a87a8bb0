"""The folders of benchmarks/: imports lead from programs to what they are made of, and never in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from scripts import BENCHMARKS

BEHIND = {"": {"speed", "gpu", "learning"}, "gpu": {"speed"}, "learning": {"speed"}, "micro": {"speed"}, "speed": set()}
"""What a folder may import from; programs at the top, which have no folder, may import from each."""
STARTED = {("gpu.speed", "run")}
"""A part of the GPU check that is a program by itself: it calls another one."""

FILES = {
    ".".join(file.relative_to(BENCHMARKS).with_suffix("").parts): file
    for file in BENCHMARKS.rglob("*.py")
    if "results" not in file.relative_to(BENCHMARKS).parts
}


def imported(name: str) -> Iterator[str]:
    """The files of benchmarks/ that one of them imports, on top or within a function."""
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (node.module if found not in FILES else found for found in names if {found, node.module} & set(FILES))


def room(name: str) -> str:
    return name.rpartition(".")[0]


def test_imports_lead_down() -> None:
    arrows = {(name, other) for name in FILES for other in imported(name)}
    assert len(arrows) > 60
    up = {(name, other) for name, other in arrows if room(other) not in {room(name), *BEHIND[room(name)]}}
    assert up == STARTED


def test_no_imports_in_a_circle() -> None:
    left = {name: set(imported(name)) for name in FILES}
    while free := [name for name, others in left.items() if not others & set(left)]:
        for name in free:
            del left[name]
    assert not left


def test_files_are_short() -> None:
    long = {name: lines for name, file in FILES.items() if (lines := len(file.read_text(encoding="utf-8").splitlines())) > 300}
    assert not long
