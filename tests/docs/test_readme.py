"""What the documents say is true: their code runs, their commands exist, their links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import pixelfast
from pixelfast import api
from pixelfast.cli import main as cli
from pixelfast.cli import sample as cli_sample
from pixelfast.engines.native.engine import usable_threads
from pixelfast.files import checkpoint
from pixelfast.inputs.announce import _said

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("pixelfast/checkpoints/*/README.md")]
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: Path, language: str) -> list[str]:
    """The fenced code blocks of a language."""
    return [body for name, body in BLOCK.findall(document.read_text(encoding="utf-8")) if name == language]


def commands(document: Path) -> Iterator[list[str]]:
    """The shell commands of a document, in fenced and indented blocks, without comments."""
    text = document.read_text(encoding="utf-8")
    indented = re.findall(r"^    (pixelfast (?:[^\n\\]|\\\n)*)", text, re.MULTILINE)
    for block in [*blocks(document, "bash"), *indented]:
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


@pytest.fixture
def compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One model and one sampler for each checkpoint: the commands of the README would compile the same ones again."""
    monkeypatch.setattr(checkpoint, "load", cache(checkpoint.load))
    monkeypatch.setattr(pixelfast, "load", checkpoint.load)
    samplers: dict[torch.nn.Module, pixelfast.Sampler] = {}

    def compile_once(model: torch.nn.Module, *args: Any, engine: str = "auto", **options: Any) -> pixelfast.Sampler:
        if (args and args[0] is not None) or engine != "auto":
            return api.compile(model, *args, engine=engine, **options)
        if model not in samplers:
            samplers[model] = api.compile(model, *args, **options)
        return samplers[model]

    monkeypatch.setattr(pixelfast, "compile", compile_once)
    monkeypatch.setattr(cli_sample, "compile", compile_once)


@contextmanager
def saying_every_encoding() -> Iterator[None]:
    """Whoever copies an example gets no warning."""
    _said.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", pixelfast.EncodingWarning)
        yield


def test_the_readme_runs(
    compiled_once: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(usable_threads())
    try:
        names: dict[str, Any] = {}
        with saying_every_encoding():
            for source in blocks(ROOT / "README.md", "python"):
                exec(compile(source, "README.md", "exec"), names)
        ran = [words for words in commands(ROOT / "README.md") if words[0] == "pixelfast"]
        for words in ran:
            assert cli.main(words[1:]) == 0, f"{words}: {capsys.readouterr()}"
    finally:
        torch.set_num_threads(threads)
    assert {words[1] for words in ran} >= {"sample", "check", "eval"}
    written = [words[i + 1] for words in ran for i, word in enumerate(words) if word in ("-o", "--gif", "--picture")]
    assert len(written) >= 4
    for name in written:
        with Image.open(name) as picture:
            assert min(picture.size) > 60


@pytest.mark.parametrize("name", ["tutorial", "drop-in", "a-wrong-image"])
def test_a_guide_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what it prints is what it shows."""
    monkeypatch.chdir(tmp_path)
    guide = ROOT / "docs" / f"{name}.md"
    names: dict[str, Any] = {}
    with saying_every_encoding():
        for source in blocks(guide, "python"):
            exec(compile(source, guide.name, "exec"), names)
    assert capsys.readouterr().out == "".join(blocks(guide, ""))


def test_the_first_example_is_short_and_ends_in_an_assertion() -> None:
    lines = blocks(ROOT / "README.md", "python")[0].splitlines()
    assert len(lines) <= 8
    assert lines[-1].startswith("assert ")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_exist(document: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for words in commands(document):
        while "=" in words[0]:
            words = words[1:]
        if words[0] == "make":
            assert set(words[1:]) <= targets, words
        elif words[0] == "pixelfast":
            assert callable(cli.build_parser().parse_args(words[1:]).run)
        elif words[0].endswith(".sh"):
            assert os.access(ROOT / words[0], os.X_OK), words
        else:
            assert words[0].startswith(".venv/bin/"), f"a command that no test knows: {words}"
            scripts = [word for word in words[1:] if word.endswith(".py")]
            assert scripts or words[1:4] == ["-m", "pip", "install"], words
            assert all((ROOT / script).is_file() for script in scripts), words


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (document.parent / link).exists(), f"{document.name} links to {link}"
    for path in re.findall(r"`((?:pixelfast|csrc|tests|benchmarks|docs|kernels)/[^`*\s]*)`", text):
        file, _, test = path.partition("::")
        assert (ROOT / file).exists(), f"{document.name} names {path}"
        assert not test or f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{document.name} names {path}"


def test_nothing_is_left_to_fill_in() -> None:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert not re.search(r"\b(TODO|TABLE|NUMBER|CONDITIONS|COMPILE|XXX)\b|@\w+@", text), document


def test_the_readme_lists_every_document() -> None:
    listed = set(re.findall(r"\]\((docs/[\w-]+\.md)\)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert listed == {f"docs/{file.name}" for file in ROOT.glob("docs/*.md")}
