"""Memory, launches and captured graphs of one program for so many images on one device, kept from call to call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...host.forking import pause
from ...ir.program import Program
from ...kernels.draw import FINE
from ..base import Request, Result, numerical_error
from .arrangement import arrange
from .launches import Launches, State
from .memory import Memory, halves
from .rows import Issue, Rows


class Session:
    """Runs requests of one size.

    Args:
        request: of this size: number of images, shapes of fields, and whether parameters are wanted.
        weights: packed weights, shared with other sessions.
        most: launches in one graph; rows of more go pixel by pixel. 0: nothing is captured.
        poison: see `Rows`.
        wanted: "graph", "persistent", or None, which leaves it to `arrange`.
    """

    def __init__(
        self, program: Program, request: Request, device: torch.device, precision: str,
        weights: dict[tuple[object, ...], Tensor], most: int, poison: bool, wanted: str | None = None,
    ) -> None:  # fmt: skip
        images = request.noise.shape[0]
        self.program, self.most, self.captures = program, most, device.type == "cuda" and most > 0
        low = halves(program, precision)
        self.memory = Memory(program, images, [field.shape for field in request.fields], device, low)
        self.state = State.make(program, images, request.want_parameters, device)
        self.arrangement = arrange(program, images, precision, wanted, device)
        launches = Launches(self.memory, self.state, precision, weights, self.arrangement.own)
        self.rows = Rows(program, launches, poison)
        self._graphs: dict[object, torch.cuda.CUDAGraph] = {}
        self._seen: set[object] = set()
        self._at: tuple[int, int] | None = None

    def run(self, request: Request) -> Result:
        self._start(request)
        for row in self.program.rows:
            pause()
            self._run_row(row, row < 0 or (request.given is not None and bool((request.given[:, row] >= 0).all())))
            if row >= 0 and request.on_row is not None:
                self._check()
                request.on_row(row, _numpy(self.state.values))
        self._check()
        parameters = None if self.state.parameters is None else _numpy(self.state.parameters)
        return Result(_numpy(self.state.values), _numpy(self.state.log_prob) if request.want_log_prob else None, parameters)

    def _start(self, request: Request) -> None:
        state = self.state
        self.memory.start(request.fields)
        state.noise.copy_(torch.from_numpy(np.ascontiguousarray(request.noise)))
        if request.given is None:
            state.values.fill_(-1)
        else:
            state.values.copy_(torch.from_numpy(np.ascontiguousarray(request.given)))
        state.log_prob.zero_()
        state.temperature.fill_(request.temperature)
        state.status.fill_(FINE)

    def _run_row(self, row: int, known: bool) -> None:
        rows, kind = self.rows, self.rows.kind(row, known)
        lo, hi = self.program.columns
        if self.most == 0 or kind[2] or self.arrangement.own or (hi - lo) * sum(map(len, self.program.steps)) <= self.most:
            self._play(row, 0, ("row", kind), lambda: rows.whole(row, kind))
            return
        self._play(row, 0, ("start", kind), lambda: rows.start(row))
        for col in range(lo, hi):
            # Graphs of pixels differ only in which launches they have.
            listed = [(launch, 0) for launch in rows.pixel(row, col)]
            self._play(row, col, tuple(id(launch) for launch, _ in listed), partial(list, listed))

    def _play(self, row: int, col: int, key: object, issues: Callable[[], Sequence[Issue]]) -> None:
        """Launch one by one at first, which compiles what has not been; capture when the same comes again; then replay."""
        listed = issues() if key not in self._graphs else ()
        if self.memory.grown or self._at != (row, col):
            self.memory.move(self.state.position, row, col)
            self._at = row, col
        if key not in self._graphs:
            if not self.captures or key not in self._seen:
                self._seen.add(key)
                for launch, first in listed:
                    launch(first)
                return
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                for launch, first in listed:
                    launch(first)
            self._graphs[key] = graph
        self._graphs[key].replay()

    def _check(self) -> None:
        """Raise if a draw found parameters that describe no distribution."""
        status = int(self.state.status)
        if status == FINE:
            return
        images, (channels, _, width) = len(self.state.values), self.program.shape
        rest, image = divmod(status, images)
        rest, channel = divmod(rest, channels)
        raise numerical_error(image, *divmod(rest, width), channel)


def _numpy(tensor: Tensor) -> np.ndarray:
    """A copy: the tensor serves the next call."""
    return np.array(tensor.cpu().numpy())
