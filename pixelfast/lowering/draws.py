"""Lower the draws: where the parameters of each channel stand, and which distribution they describe."""

from __future__ import annotations

from ..distributions.base import Head
from ..distributions.components import MixtureHead
from ..ir.graph import Edge
from ..ir.program import CUSTOM, Draw, Instruction, Map, Mixture, Slot
from .context import Lowering, Reader


def lower_draws(lowering: Lowering, head: Head) -> list[Draw]:
    """One for each channel. Where channels share their parameters, all draw from what stands there at the first one's."""
    outputs = lowering.graph.outputs
    if head.shared:
        first = _draw(lowering, head, 0, outputs[0])
        return [Draw(channel, first.source) for channel in range(len(lowering.steps))]
    return [_draw(lowering, head, channel, edges) for channel, edges in enumerate(outputs)]


def _draw(lowering: Lowering, head: Head, channel: int, edges: tuple[Edge, ...]) -> Draw:
    """Draw from parameters that stand side by side; copy them into a buffer of their own if they do not."""
    reader = Reader(lowering, None)
    runs = [run for edge in edges for run in reader.ordered_runs(edge)]
    if len(runs) == 1:
        return Draw(channel, runs[0])
    image = lowering.graph.image
    number = lowering.add_buffer(f"parameters_{channel}", head.parameters, image)
    first = 0
    for slot in runs:
        out = Slot(number, first, slot.count)
        lowering.steps[channel].append(Instruction(out, Map((slot,), ()), image, "output"))
        first += slot.count
    return Draw(channel, Slot(number, 0, first))


def head_name(head: Head) -> str:
    """One of `pixelfast.ir.program.HEADS`, or `CUSTOM` for what is no data."""
    kind = next(kind for kind in type(head).__mro__ if issubclass(kind, Head) and "drawn_as" in vars(kind))
    # A subclass with probabilities of its own is another distribution.
    return head.drawn_as if type(head).probabilities is kind.probabilities else CUSTOM


def mixture_of(head: Head) -> Mixture | None:
    """How to read the parameters of a mixture; None for other heads."""
    return head.mixture if isinstance(head, MixtureHead) and head_name(head) != CUSTOM else None
