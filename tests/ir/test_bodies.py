"""What bodies of instructions say about themselves, and that none is taken for another."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from attention_cases import CASES, program_of
from programs import Builder, probe, request

from pixelfast.engines import reference
from pixelfast.ir.program import BODIES, Attention, Body, Cache, FieldSlot, Instruction, Map, Op, Pixel, Rect, Slot
from pixelfast.lowering import packing

IMAGE = Rect(0, 2, 0, 3)


@dataclass(frozen=True)
class Strange(Body):
    """A kind of body that nobody has written a case for, which keeps places in two fields."""

    source: Slot
    others: tuple[Slot | Cache | Pixel, ...]

    @property
    def adds(self) -> bool:
        return False

    @property
    def text(self) -> str:
        return "= strange"

    def macs(self, elements: int) -> int:
        return 0


STRANGE = Strange(Slot(1, 0, 2), (Slot(2, 1, 3, -1, 1), Cache(3, 0, 1, 0, 0), Pixel(-1, 0, 0)))


def test_places_are_found_in_every_field() -> None:
    assert STRANGE.slots() == (Slot(1, 0, 2), Slot(2, 1, 3, -1, 1))
    assert (STRANGE.caches(), STRANGE.pixels(), STRANGE.arrays()) == ((Cache(3, 0, 1, 0, 0),), (Pixel(-1, 0, 0),), ())
    assert STRANGE.buffers() == {1, 2, 3}


@pytest.mark.parametrize(
    "program", [Builder(np.random.default_rng(0)).build(), program_of(CASES["a bias"], np.random.default_rng(0))]
)
def test_moved_slots_are_all_slots(program) -> None:
    for body in (*(instruction.body for instruction in program.instructions()), STRANGE):
        moved = body.with_slots(lambda place: replace(place, buffer=place.buffer + 10))
        assert moved.buffers() == {buffer + 10 for buffer in body.buffers()}
        assert (moved.pixels(), len(moved.slots())) == (body.pixels(), len(body.slots()))
        assert all(kept is array for kept, array in zip(moved.arrays(), body.arrays(), strict=True))
        assert moved.with_slots(lambda place: replace(place, buffer=place.buffer - 10)).text == body.text


def test_every_kind_is_listed() -> None:
    assert set(BODIES) | {Strange} == set(Body.__subclasses__())


def test_an_unknown_body_is_an_error_everywhere() -> None:
    x = np.zeros((1, 2, 3, 2), np.float32)
    program, fields = probe([x], [Instruction(Slot(0, 0, 2), Strange(Slot(1, 0, 2), ()), IMAGE)], 2)
    with pytest.raises(TypeError, match="reference interpreter knows no body of an instruction that is a Strange"):
        reference.run(program, request(program, np.random.default_rng(0), 1, fields=fields))
    with pytest.raises(TypeError, match="knows no body of an instruction that is a Strange"):
        packing.pack(program)


def test_a_printed_instruction_says_where_when_and_what() -> None:
    body = Map((Slot(1, 0, 4, -1, 2), FieldSlot(0, 0, 4)), (Op("add", (0, 1)),))
    assert str(Instruction(Slot(0, 2, 4), body, IMAGE, "blocks.1", sweep=-1)) == (
        "right to left: b0[2:6] = add(b1[0:4]@(-1,+2), field0[0:4])  # blocks.1"
    )
    attention = program_of(CASES["everything before"], np.random.default_rng(0)).instructions()[-1]
    assert isinstance(attention.body, Attention)
    assert str(attention) == "b0[0:21] = attention of b1[2:17] to b2, up to 34 pixels  # attention"
