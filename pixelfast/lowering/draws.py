"""Lower the draws: where the parameters of each channel stand, and which distribution they describe."""

from __future__ import annotations

from ..distributions.base import Head
from ..distributions.bernoulli import Bernoulli
from ..distributions.categorical import Categorical
from ..distributions.components import FAMILIES, MixtureHead
from ..ir.graph import Edge
from ..ir.program import CUSTOM, Draw, Instruction, Map, Mixture, Program, Slot
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


def head_of(program: Program, own: Head | None = None) -> Head:
    """The head whose formulas a program draws by, the inverse of `head_name`; `own` where the program's is no data.

    Raises:
        ValueError: there is no such head.
    """
    if program.head == CUSTOM and own is not None:
        return own
    if program.head == "categorical":
        return Categorical(program.levels)
    if program.head in ("bernoulli_logit", "bernoulli_probability"):
        return Bernoulli(probability=program.head == "bernoulli_probability")
    if program.head in FAMILIES and program.mixture is not None:
        return FAMILIES[program.head].of(program.levels, program.shape[0], program.mixture)
    raise ValueError(f"no formulas are known for a program's head {program.head!r}")


def mixture_of(head: Head) -> Mixture | None:
    """How to read the parameters of a mixture; None for other heads."""
    return head.mixture if isinstance(head, MixtureHead) and head_name(head) != CUSTOM else None
