"""The contract between the two languages: its C++ is up to date, and what is written can be read again by its lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attention_cases import CASES, program_of
from native import needs_engine
from programs import Builder, swept

from pixelfast.engines.native import engine as cpu
from pixelfast.ir import contract, contract_cpp
from pixelfast.ir.bodies import BODIES
from pixelfast.ir.contract import Arguments, Array, Check, Code, Many, Number, One, Struct, Variant, Word, Words
from pixelfast.ir.program import Program
from pixelfast.lowering import packing

CSRC = Path(contract.__file__).parents[2] / "csrc"


@pytest.mark.parametrize("name", contract_cpp.files())
def test_the_headers_are_up_to_date(name: str) -> None:
    written = (CSRC / name).read_text()
    assert written == contract_cpp.files()[name], "run python -m pixelfast.ir.contract_cpp, and build the native engine again"


@needs_engine
def test_the_native_engine_has_this_contract() -> None:
    assert cpu.native().contract == contract.DIGEST
    assert contract.outdated(cpu.native()) is None


def test_codes_are_positions() -> None:
    assert [option.name for option in contract.BODY.options] == list(contract.NAMES["Opcode"]) == [b.__name__ for b in BODIES]
    assert len(contract.ARGUMENTS) == len(contract.NAMES["Operation"])


def test_the_digest_is_of_the_layout_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    said = contract.description()
    monkeypatch.setitem(contract.LIMITS, "Reach", (contract.limit("Reach"), "said otherwise"))
    assert contract.description() == said
    monkeypatch.setitem(contract.LIMITS, "Reach", (contract.limit("Reach") + 1, "said otherwise"))
    assert contract.description() != said


class Unpacker:
    """Reads a stream by the contract's lists, into dictionaries."""

    def __init__(self, words: np.ndarray, arrays: list[np.ndarray]) -> None:
        self.words, self.arrays = iter(words.tolist()), arrays

    def struct(self, struct: Struct | Variant) -> Any:
        if isinstance(struct, Struct):
            found: dict[str, Any] = {}
            for field in struct.fields:
                if not isinstance(field, Check):
                    found[field.name] = self.field(field, found)
            return found
        option = struct.options[next(self.words)]
        return (option.name, self.struct(option)) if isinstance(option, Struct) else self.field(option, {})

    def many(self, struct: Struct | Variant) -> list[Any]:
        return [self.struct(struct) for _ in range(next(self.words))]

    def field(self, field: Any, before: dict[str, Any]) -> Any:
        match field:
            case Word():
                return next(self.words)
            case Code():
                return contract.NAMES[field.names][next(self.words)]
            case Number():
                return float(np.uint32(next(self.words)).view(np.float32))
            case Array():
                number, size = next(self.words), next(self.words)
                assert number < 0 or self.arrays[number].size == size
                return None if number < 0 else self.arrays[number]
            case Words():
                return [next(self.words) for _ in range(next(self.words))]
            case Arguments():
                arity = contract.ARGUMENTS[contract.NAMES["Operation"].index(before["name"])]
                return tuple(next(self.words) for _ in range(arity))
            case One():
                return self.struct(field.struct) if not field.optional or next(self.words) else None
            case Many():
                return [self.many(field.struct) for _ in range(next(self.words))] if field.nested else self.many(field.struct)
        raise AssertionError(field)


@pytest.mark.parametrize("program", [
    Builder(np.random.default_rng(0)).build(),
    program_of(CASES["a mask and a bias for each head"], np.random.default_rng(0)),
    swept(np.random.default_rng(0), 5, 4, -1)[0],
])  # fmt: skip
def test_what_is_written_can_be_read(program: Program) -> None:
    words, arrays, places = packing.pack(program)
    assert words[:2].tolist() == [contract.MAGIC, contract.DIGEST]
    assert words[places["width"]] == program.width
    reader = Unpacker(words[2:], arrays)
    found = reader.struct(contract.PROGRAM)
    assert next(reader.words, None) is None
    assert [found[name] for name in ("channels", "height", "width", "head")] == [*program.shape, program.head]
    lists = [found["row"], *found["steps"]]
    for listed, instructions in zip(lists, [program.row, *program.steps], strict=True):
        for read, instruction in zip(listed, instructions, strict=True):
            kind, body = read["body"]
            assert kind == type(instruction.body).__name__
            assert read["out"] == vars(instruction.out)
            assert read["rect"] == vars(instruction.rect)
            own = {id(array) for array in instruction.body.arrays()}
            assert {id(array) for array in body.values() if isinstance(array, np.ndarray)} <= own


def test_arrays_are_not_copied() -> None:
    """Weights go as they are; one that two instructions share goes once."""
    program = Builder(np.random.default_rng(0)).build()
    own = {id(array) for instruction in program.instructions() for array in instruction.body.arrays()}
    own |= {id(encode.table) for encodes in program.encodes for encode in encodes}
    assert {id(array) for array in packing.pack(program).arrays} == own
