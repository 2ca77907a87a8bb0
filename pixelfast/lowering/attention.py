"""Lower attention: what asks and what is kept are gathered side by side, and the pixels that are looked at become lists."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UnsupportedModel
from ..ir.program import Attention, Cache, Instruction, Keys, Map, Rect, Slot
from ..ir.schedule import Piece
from ..ops import CausalAttention, Gather

if TYPE_CHECKING:
    from .lower import Lowering


def lower_gather(lowering: Lowering, number: int, piece: Piece, node: Gather) -> None:
    """Copies, in the order of the edges, which is that of the buffer."""
    ((_, instructions),) = lowering.parts(number, piece)
    first = 0
    for edge in node.edges:
        for slot in lowering.ordered_runs(edge, piece):
            out = Slot(number, first, slot.count)
            instructions.append(Instruction(out, Map((slot,), ()), piece.domain, node.layer or node.name))
            first += slot.count


def lower_attention(lowering: Lowering, number: int, piece: Piece, node: CausalAttention) -> None:
    """Both of its sources are gathered: each is one buffer, in order."""
    if node.refusal:
        raise UnsupportedModel(node.refusal)
    ((_, instructions),) = lowering.parts(number, piece)
    (query,) = lowering.ordered_runs(node.query, piece)
    cache = int(lowering.schedule.piece_of[node.cache.source][0])
    source = lowering.schedule.pieces[cache]
    keys = Cache(cache, 0, query.count, source.row, source.col)
    values = replace(keys, channel=query.count, count=node.features)
    out = Slot(number, 0, node.features)
    seen, bias = _of_domain(node, lowering.graph.image)
    name = node.layer or node.name
    masks = len(seen) // ((piece.domain.row1 - piece.domain.row0) * (piece.domain.col1 - piece.domain.col0))
    body = Attention(query, keys, values, node.heads, masks, node.scale, seen, bias)
    instructions.append(Instruction(out, body, piece.domain, name))


def _of_domain(node: CausalAttention, image: Rect) -> tuple[Keys, np.ndarray | None]:
    """What the pixels of an attention's domain see, and the bias of that."""
    d = node.domain
    if d == image:
        return node.seen, node.bias
    pixels = image.row1 * image.col1
    number = np.arange(pixels).reshape(image.row1, image.col1)[d.row0 : d.row1, d.col0 : d.col1].reshape(-1)
    lists = (np.arange(len(node.seen) // pixels)[:, None] * pixels + number).reshape(-1)
    bias = None
    if node.bias is not None:
        kept = np.repeat(np.isin(np.arange(len(node.seen)), lists), node.seen.counts())
        bias = np.ascontiguousarray(node.bias[:, kept])
    return Keys.of(node.seen.mask(pixels)[lists]), bias
