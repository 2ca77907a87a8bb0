"""The C++ of the contract: csrc/contract.h (names and limits), contract_structs.h and contract_read.h.

`python -m pixelfast.ir.contract_cpp` writes them anew; a test says when that is due.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from .contract import (
    ARGUMENTS,
    DIGEST,
    FORMULAS,
    LIMITS,
    MAGIC,
    NAMES,
    STRUCTS,
    Arguments,
    Array,
    Check,
    Code,
    Field,
    Many,
    Number,
    One,
    Struct,
    Variant,
    Word,
    Words,
)

WIDTH = 118
WRITTEN = "// Written by `python -m pixelfast.ir.contract_cpp` from pixelfast/ir/contract.py: change that."
PLACES = ("Slot", "Cache", "Pixel")
"""Structs that say where an instruction reads: a function visits all of them in a body."""
SPOKEN = ("Precision", "Split")
"""Names that C++ is given as text, too."""
AROUND = {"Instruction": "instruction", "Program": "program"}
"""Structs that what they hold refers to: the reader remembers the last one of each."""


def files() -> dict[str, str]:
    """The text of each file, by its name in csrc/."""
    return {"contract.h": _names(), "contract_structs.h": _structs(), "contract_read.h": _readers()}


def _comment(text: str) -> list[str]:
    return [f"// {line}" for line in textwrap.wrap(text, WIDTH - 3)]


def _file(about: str, includes: tuple[str, ...], lines: list[str]) -> str:
    head = [WRITTEN, *_comment(about), "#pragma once", ""]
    head += [*(f"#include {name}" for name in includes), *([""] if includes else [])]
    return "\n".join([*head, "namespace pixelfast {", "", *lines, "", "}  // namespace pixelfast", ""])


def _names() -> str:
    about = "Names and limits. It needs no other header, so that the inner loops can include it (see cpu/ops_impl.h)."
    lines = [
        f"constexpr long long kMagic = {MAGIC:#x};",
        f"constexpr long long kContract = {DIGEST:#x};  // the version of all this",
        "",
    ]
    lines += [f"constexpr long long k{name} = {number};  // {text}" for name, (number, text) in LIMITS.items()]
    for kind, names in NAMES.items():
        listed = ", ".join(names)
        lines += ["", *textwrap.wrap(f"enum class {kind} {{ {listed} }};", WIDTH, subsequent_indent="  ")]
        if kind not in SPOKEN:
            continue
        quoted = ", ".join(f'"{name}"' for name in names)
        lines += textwrap.wrap(f"constexpr const char* k{kind}s[] = {{{quoted}}};", WIDTH, subsequent_indent="  ")
    counts = ", ".join(map(str, ARGUMENTS))
    lines += [
        "",
        "// Of each operation.",
        *textwrap.wrap(f"constexpr int kArguments[] = {{{counts}}};", WIDTH, subsequent_indent="  "),
    ]
    return _file(about, (), lines)


def _structs() -> str:
    about = "A program as plain data: pixelfast/ir/program.py says what each part means."
    lines: list[str] = []
    for struct in STRUCTS:
        lines += _comment(struct.about)
        if isinstance(struct, Variant):
            lines += [f"using {struct.name} = std::variant<{', '.join(map(_type, struct.options))}>;", ""]
            continue
        members = [f"{_type(field)} {field.name}{_start(field)};" for field in struct.fields if not isinstance(field, Check)]
        lines += [f"struct {struct.name} {{", *(f"  {member}" for member in members)]
        lines += [*(["  // Not in the stream:"] if struct.later else []), *(f"  {member}" for member in struct.later), "};", ""]
    for place in PLACES:
        lines += _visitor(place)
    for formula in FORMULAS:
        lines += _formula(formula)
    includes = ("<algorithm>", "<array>", "<optional>", "<variant>", "<vector>", '"contract.h"', '"floats.h"')
    return _file(about, includes, lines[:-1])


def _formula(formula: Callable[..., int]) -> list[str]:
    """A function that returns the same expression; `max` is the only one that it may call."""
    function = ast.parse(inspect.getsource(formula)).body[0]
    assert isinstance(function, ast.FunctionDef)
    returned = function.body[-1]
    assert isinstance(returned, ast.Return)
    assert returned.value is not None
    arguments = ", ".join(f"int {argument.arg}" for argument in function.args.args)
    text = re.sub(r"\bmax\(([^()]*)\)", r"std::max({\1})", ast.unparse(returned.value))
    about = ast.get_docstring(function) or ""
    return [*_comment(about), f"inline int {function.name}({arguments}) {{", f"  return {text};", "}", ""]


def _type(part: Struct | Variant | Field) -> str:
    """In C++."""
    match part:
        case Struct() | Variant():
            return part.name
        case Word():
            return "int"
        case Code():
            return part.names
        case Number():
            return "float"
        case Array():
            return "Floats"
        case Words():
            return "std::vector<int>"
        case Arguments():
            return "std::array<int, 3>"
        case One(struct=struct) if struct is not None:
            return struct.name
        case Many(struct=struct) if struct is not None:
            return f"std::vector<std::vector<{struct.name}>>" if part.nested else f"std::vector<{struct.name}>"
        case _:
            raise TypeError(f"there is no type of C++ for {part}")


def _start(field: Field) -> str:
    return {Word: " = 0", Number: " = 0", Code: "{}", Arguments: "{}"}.get(type(field), "")


def _visitor(place: str) -> list[str]:
    """A function that calls another with each place of this kind that a body reads."""
    lines = [f"// Calls f with each {place} that a body reads.", "template <class F>"]
    lines += [f"void each_{place.lower()}(const Body& body, F f) {{"]
    body = next(struct for struct in STRUCTS if isinstance(struct, Variant) and struct.name == "Body")
    for option in body.options:
        assert isinstance(option, Struct)
        calls = [call for field in option.fields for call in _calls(field, place)]
        if calls:
            lines += [
                f"  if (const auto* item = std::get_if<{option.name}>(&body)) {{",
                *(f"    {call}" for call in calls),
                "  }",
            ]
    return [*lines, "}", ""]


def _calls(field: Field, place: str) -> list[str]:
    struct = field.struct if isinstance(field, (One, Many)) else None
    if struct is None:
        return []
    if struct.name == place:
        return (
            [f"for (const {place}& place : item->{field.name}) f(place);"]
            if isinstance(field, Many)
            else [f"f(item->{field.name});"]
        )
    if isinstance(struct, Variant) and any(isinstance(option, Struct) and option.name == place for option in struct.options):
        loop = f"for (const {struct.name}& choice : item->{field.name})"
        return [loop, f"  if (const auto* place = std::get_if<{place}>(&choice)) f(*place);"]
    return []


def _readers() -> str:
    about = "Reading each struct from the stream: program.cpp has the Reader, and the functions that are called here."
    lines: list[str] = []
    for struct in STRUCTS:
        lines += [f"inline void read(Reader& in, {struct.name}& item) {{"]
        if struct.name in AROUND:
            lines += [f"  in.{AROUND[struct.name]} = &item;"]
        if isinstance(struct, Variant):
            lines += [f'  switch (in.number("{struct.what}", 0, {len(struct.options) - 1})) {{']
            for number, option in enumerate(struct.options):
                lines += [f"    case {number}: {_option(option, number)} break;"]
            lines += ["  }"]
        else:
            lines += [f"  {line}" for field in struct.fields for line in _read(field, struct)]
        lines += ["}", ""]
    return _file(about, (), lines[:-1])


def _option(option: Struct | Array | Number, number: int) -> str:
    if isinstance(option, Struct):
        return f"read(in, item.emplace<{number}>());"
    if isinstance(option, Array):
        return f"item.emplace<{number}>({_array(option, None)});"
    return f'item.emplace<{number}>(in.real("{option.what}"));'


def _array(array: Array, struct: Struct | None) -> str:
    return f'in.array("{array.what}", int64_t{{1}} * {_expression(array.count, struct)}, {str(array.optional).lower()})'


def _read(field: Field, struct: Struct) -> list[str]:
    """Statements that read a field of `item`."""
    item, what = f"item.{field.name}", f'"{field.what}"'

    def said(text: str) -> str:
        return _expression(text, struct)

    match field:
        case Word():
            return [f"{item} = in.number({what}, {said(field.low)}, {said(field.high)});"]
        case Code():
            return [f"{item} = static_cast<{field.names}>(in.number({what}, 0, {len(NAMES[field.names]) - 1}));"]
        case Number():
            return [f"{item} = in.real({what});"]
        case Array():
            return [f"{item} = {_array(field, struct)};"]
        case Words():
            bounds = f'"{field.each}", {said(field.low)}, {said(field.high)}'
            return [f"in.list({item}, in.length({what}), [&](int& word) {{ word = in.number({bounds}); }});"]
        case Arguments():
            return [f"for (int i = 0; i < arguments_of(item.name); i++) {item}[i] = in.number({what}, 0, {said(field.high)});"]
        case Check():
            return [f"{field.name}(in, item);"]
        case One():
            return [f"if (in.number({what}, 0, 1)) read(in, {item});" if field.optional else f"read(in, {item});"]
        case Many():
            length = f"in.exactly({what}, {said(field.count)})" if field.count else f"in.length({what})"
            if not field.nested:
                return [f"in.list({item}, {length}, [&](auto& part) {{ read(in, part); }});"]
            inner = f"in.list(list, in.length({what}), [&](auto& part) {{ read(in, part); }});"
            return [f"in.list({item}, {length}, [&](auto& list) {{", f"  {inner}", "});"]
        case _:
            raise TypeError(f"there is no way to read {field}")


def _expression(text: str, struct: Struct | None) -> str:
    """A bound or a size over the fields of `item`, the program, and the instruction around it."""
    own = [field.name for field in struct.fields] if struct is not None else []

    around = {
        "program.": "in.program->",
        "program": "*in.program",
        "out": "in.instruction->out",
        "rect": "in.instruction->rect",
    }

    def named(found: re.Match[str]) -> str:
        name = found.group()
        return f"item.{name}" if name in own else around.get(name, name)

    return re.sub(r"(?<![\w.])(program\.|[a-z]\w*)", named, text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parents[2] / "csrc", help="csrc/")
    for name, text in files().items():
        parser.parse_args().folder.joinpath(name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
