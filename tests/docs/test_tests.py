"""The tests themselves: they lie as the package does, share by helpers alone, and nothing names a test that is not there."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
HELPERS = {file.stem: file for file in (TESTS / "helpers").glob("*.py")}
TEST_FILES = sorted(TESTS.rglob("test_*.py"))
OF_NO_FOLDER = {"helpers", "system", "engines/interpreted"}
"""What several tests share, models through the whole package, and what runs in a process of its own."""
FEW = 3
"""Statements that may be written twice: a fixture or a model as small as that is read sooner than found."""


def folder_of(file: Path) -> str:
    return file.parent.relative_to(TESTS).as_posix()


def imported(text: str) -> Iterator[str]:
    """Modules that are imported from outside the package, within functions, too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def definitions(text: str) -> Iterator[tuple[str, str]]:
    """Names of functions and classes of a file, and their statements, if they are more than a few."""
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            body = node.body[ast.get_docstring(node) is not None :]
            if len([statement for part in body for statement in ast.walk(part) if isinstance(statement, ast.stmt)]) > FEW:
                yield node.name, "".join(map(ast.dump, [*node.bases, *body] if isinstance(node, ast.ClassDef) else body))


def test_test_files_lie_as_the_package_does() -> None:
    for folder in {folder_of(file) for file in TEST_FILES} - OF_NO_FOLDER - {"."}:
        assert (ROOT / "pixelfast" / folder).is_dir() or (ROOT / folder).is_dir(), f"nothing in the package is called {folder}"


def test_only_tests_and_settings_lie_outside_the_helpers() -> None:
    others = {file.name for file in TESTS.rglob("*.py") if file not in TEST_FILES and folder_of(file) != "helpers"}
    assert others == {"conftest.py"}
    assert not [file for file in TEST_FILES if folder_of(file) == "helpers"]


def test_names_are_unique() -> None:
    """Test files of one name in two folders, or a helper called like a module, would be taken for each other."""
    names = [file.stem for file in TEST_FILES]
    assert len(names) == len(set(names))


def test_no_file_imports_a_test_file() -> None:
    found = [(file.name, name) for file in TESTS.rglob("*.py") for name in imported(file.read_text(encoding="utf-8"))]
    assert [pair for pair in found if pair[1].startswith("test_") or pair[1].split(".")[0] in ("conftest", "tests")] == []


def test_every_helper_is_used() -> None:
    used = {name for file in TESTS.rglob("*.py") for name in imported(file.read_text(encoding="utf-8"))}
    named = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {name for name in HELPERS if name not in used and f"tests/helpers/{name}.py" not in named} == set()


def test_nothing_is_written_twice() -> None:
    places = defaultdict(list)
    for file in sorted(TESTS.rglob("*.py")):
        for name, body in definitions(file.read_text(encoding="utf-8")):
            places[body].append(f"{name} of {file.name}")
    assert [found for found in places.values() if len(found) > 1] == []


def test_tests_that_are_named_exist() -> None:
    """In comments, rules and settings; those that documents name are read by test_readme.py."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no checkout")
    known = {file.name for file in TESTS.rglob("*") if file.is_file()}
    for name in listed.stdout.splitlines():
        if name.endswith((".py", ".cpp", ".h", ".cu", ".toml", "Makefile")) and (ROOT / name).is_file():
            text = (ROOT / name).read_text(encoding="utf-8")
            for path in re.findall(r"\btests/[\w/.%*$(]+", text):
                assert re.search(r"[%*$(]", path) or (ROOT / path.rstrip(".")).exists(), f"{name} names {path}"
            for file in re.findall(r"(?<![\w'\"/])test_\w+\.(?:py|cpp)\b", text):
                assert file in known, f"{name} names {file}"


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_rules_of_the_makefile_find_their_tests() -> None:
    """A wildcard that matches nothing, or a name that is spelled wrong, would leave a rule without tests."""
    told = subprocess.run(["make", "-np", "clean"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for variable, least in (("ENGINE_TESTS", 10), ("PRECISION_TESTS", 1)):
        files = re.search(rf"^{variable} := (.*)$", told, re.MULTILINE)
        assert files, f"the Makefile sets no {variable}"
        assert len(files[1].split()) >= least
        assert all((ROOT / file).is_file() for file in files[1].split()), files[1]
