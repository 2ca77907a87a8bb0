"""Recurrences through the whole pipeline: what engines draw, how much they compute, what is refused; the operator itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from native import ARRANGEMENTS
from oracle import NATIVE, Traced, compare, images_of, trace
from torch import Tensor, nn
from torch.nn import functional as F

import pixelfast
from pixelfast import InvalidInput, NotAutoregressive, UnsupportedModel, lstm_scan
from pixelfast.causality.availability import availability
from pixelfast.causality.receptive_field import receptive_field
from pixelfast.distributions.categorical import Categorical
from pixelfast.engines import reference
from pixelfast.engines.native.engine import CpuEngine
from pixelfast.lowering.wavefront import Wave, wavefront
from pixelfast.models import PixelRNN
from pixelfast.models.pixelrnn import DiagonalBiLSTM, RowLSTM, taps_of
from pixelfast.models.shifted import down_shift

SIZE = (7, 5)
KINDS = ["row", "diagonal"]
IMAGES = 3
needs_native = pytest.mark.skipif(not NATIVE, reason="needs the native engine")


def traced(lstm: str, channels: int = 1, size: tuple[int, int] = SIZE, **more: object) -> Traced:
    torch.manual_seed(0)
    arguments: dict[str, object] = {"levels": 4, "features": 17, "layers": 1} | more
    model = PixelRNN((channels, *size), lstm=lstm, **arguments).eval()  # type: ignore[arg-type]
    for name, weight in model.named_parameters():
        if "state_to_state" in name:
            nn.init.normal_(weight, std=0.7)  # so that a wrong state shows
    return trace(model, (channels, *size), model.head)


def some_known(found: Traced) -> np.ndarray:
    """Given values (N, H, W, C): the first rows wholly, then half of the sub-pixels, then nothing."""
    channels, height, width = found.shape
    rng = np.random.default_rng(0)
    given = rng.integers(found.head.levels, size=(IMAGES, height, width, channels)).astype(np.int32)
    given[:, height // 3 :][rng.random(given[:, height // 3 :].shape) < 0.5] = -1
    given[:, 2 * height // 3 :] = -1
    return given


# What engines draw.


@pytest.mark.parametrize("size", [(7, 5), (5, 7), (1, 1), (1, 6), (6, 1)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("lstm", KINDS)
def test_engines_draw_what_the_naive_loop_draws(lstm: str, channels: int, size: tuple[int, int]) -> None:
    found = traced(lstm, channels, size)
    assert compare(found, IMAGES) == 0
    assert compare(found, IMAGES, seed=1, given=some_known(found)) == 0


@pytest.mark.parametrize(
    "more", [{"layers": 3}, {"layers": 2, "kernel": 5}, {"layers": 2, "kernel": 1}, {"channels": 3, "colour": False}]
)
@pytest.mark.parametrize("lstm", KINDS)
def test_deeper_and_wider(lstm: str, more: dict[str, object]) -> None:
    found = traced(lstm, **more)  # type: ignore[arg-type]
    assert compare(found, IMAGES) == 0


@needs_native
@pytest.mark.parametrize("lstm", KINDS)
def test_bits_are_an_image_s_own(lstm: str) -> None:
    """Whatever the batch, the threads and the arrangement; where columns wait for a row, rows do not overlap."""
    found = traced(lstm, 3, layers=2)
    engine, call = CpuEngine(found.compiled.program), found.request(5, 0)
    whole = engine.run(call)
    one = engine.run(replace(call, noise=call.noise[:1]))
    assert one.parameters.tobytes() == images_of(whole, 1).parameters.tobytes()  # type: ignore[union-attr]
    for arrangement in ARRANGEMENTS:
        teams, team, split, _ = arrangement
        if lstm == "diagonal" and team and split != "parts":
            with pytest.raises(ValueError, match="no such arrangement"):
                engine.run(call, arrangement=arrangement)
            continue
        again = engine.run(replace(call, threads=teams * max(team, 1)), arrangement=arrangement)
        assert again.parameters.tobytes() == whole.parameters.tobytes(), arrangement  # type: ignore[union-attr]
        np.testing.assert_array_equal(again.values, whole.values)


def test_rows_overlap_unless_columns_wait_for_a_row() -> None:
    row, diagonal = (traced(lstm, layers=2) for lstm in KINDS)
    program, call = row.compiled.program, row.request(IMAGES, 0)
    expected = reference.run(program, call, poison=True)
    found = reference.run(program, call, poison=True, wave=Wave(program, wavefront(program)))
    np.testing.assert_array_equal(found.values, expected.values)
    program = diagonal.compiled.program
    with pytest.raises(ValueError, match="sweeps cannot overlap"):
        Wave(program, wavefront(program))


# How much they compute.


@pytest.mark.parametrize("lstm", KINDS)
def test_every_state_is_computed_once(lstm: str) -> None:
    """As many multiply-adds as the layers have weights, at every pixel, but for the last row's states that no row reads."""
    found = traced(lstm, layers=2)
    height, width = SIZE
    once, last_row = 0, 0
    for name, weight in found.module.named_parameters():
        if name.endswith("bias"):
            continue
        # Masked convolutions: as their masks say.
        mask = dict(found.module.named_buffers()).get(name.removesuffix("weight") + "mask", torch.ones(()))
        kept = int((weight * mask != 0).sum())
        once += kept
        if lstm == "diagonal" and (".input_to_state.1." in name or ".state_to_state.1." in name):
            last_row += kept
    assert found.compiled.program.macs == (once * height - last_row) * width


def test_gates_of_the_right_are_computed_by_rows() -> None:
    text = str(traced("diagonal").compiled.schedule)
    assert "features once per row @(+1,+0)  # layers.0.lstm.input_to_state.1" in text
    assert "right to left:" in str(traced("diagonal").compiled.program)


# What is refused.


class Unshifted(DiagonalBiLSTM):
    """The direction from the right shows each pixel what stands to its right."""

    def forward(self, x: Tensor) -> Tensor:
        left, right = (gates(x) for gates in self.input_to_state)
        return (
            lstm_scan(left, taps_of(self.state_to_state[0]), [(-1, 0), (0, -1)], (0, -1))  # type: ignore[arg-type]
            + lstm_scan(right, taps_of(self.state_to_state[1]), [(-1, 0), (0, 1)], (0, 1))  # type: ignore[arg-type]
        )


@pytest.mark.parametrize("layer", [0, 1])
def test_a_right_to_left_direction_without_a_shift_leaks(layer: int) -> None:
    torch.manual_seed(0)
    model = PixelRNN((1, *SIZE), levels=4, features=18, layers=2, lstm="diagonal").eval()
    assert pixelfast.check(model).autoregressive
    model.layers[layer].lstm.__class__ = Unshifted
    leak = pixelfast.check(model).leak
    assert leak is not None
    assert leak.layer == f"layers.{layer}.lstm"
    assert "lstm_scan" in leak.node
    with pytest.raises(NotAutoregressive):
        pixelfast.compile(model, engine="reference")


class Own(nn.Module):
    """A recurrence that somebody writes with the operator, on a first layer that sees the row above; its gates may also see the
    pixel to the left (`beside`), and its states may serve the row below (`shift`).
    """

    def __init__(
        self,
        offsets: list[tuple[int, int]],
        cell: tuple[int, int],
        late: bool = False,
        shift: bool = True,
        beside: bool = False,
        features: int = 5,
    ) -> None:
        super().__init__()
        self.offsets, self.cell, self.late, self.shift, self.beside = offsets, cell, late, shift, beside
        self.first, self.left = nn.Conv2d(1, 4 * features, 3, padding=1), nn.Conv2d(1, 4 * features, 1)
        self.weight = nn.Parameter(torch.randn(len(offsets), features, 4 * features) / 2)
        self.out = nn.Conv2d(features, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.first(down_shift(down_shift(x)))
        if self.beside:
            gates = gates + self.left(F.pad(x, (1, 0))[..., :-1])
        if self.late and not torch.compiler.is_exporting():
            return self.out(gates[:, :5])
        states = lstm_scan(gates, self.weight, self.offsets, self.cell)
        return self.out(down_shift(states) if self.shift else states)


NO_ORDER = [([(0, 0)], (-1, 0)), ([(-1, 0), (1, 0)], (-1, 0)), ([(0, -1), (0, 1)], (-1, 0)), ([(-1, 0)], (0, 0))]


@pytest.mark.parametrize(("offsets", "cell"), NO_ORDER)
def test_states_that_are_not_there_yet(offsets: list[tuple[int, int]], cell: tuple[int, int]) -> None:
    model = nn.Sequential(nn.Identity(), Own(offsets, cell))
    with pytest.raises(InvalidInput, match=r"rows come from the top.*\(in layer '1'\)"):
        pixelfast.check(model, (1, 4, 3), Categorical(4))
    model = nn.Sequential(nn.Identity(), Own(offsets, cell, late=True))  # eagerly, it looks harmless
    leak = pixelfast.check(model, (1, 4, 3), Categorical(4)).leak
    assert leak is not None
    assert leak.layer == "1"
    assert "not there yet" in str(leak)


def test_weights_that_depend_on_the_image() -> None:
    class Strange(Own):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(lstm_scan(self.first(x), self.weight * x.mean(), self.offsets, self.cell))

    with pytest.raises((UnsupportedModel, NotAutoregressive)):
        pixelfast.compile(Strange([(-1, 0)], (-1, 0)), (1, 4, 3), Categorical(4), engine="reference")


class Loop(nn.Module):
    """A cell of PyTorch's in a loop over pixels, or a layer that loops over the rows by itself."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cell = getattr(nn, kind)(*((3, 6) if kind in ("LSTM", "GRU", "RNN") else (1, 6)))
        self.out = nn.Linear(6, 12 if kind in ("LSTM", "GRU", "RNN") else 4)

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        if isinstance(self.cell, nn.RNNBase):
            states, _ = self.cell(down_shift(x)[:, 0].transpose(0, 1))
            return self.out(states).view(height, n, width, 4).permute(1, 3, 0, 2)
        state, outputs, before = None, [], torch.zeros(n, 1)
        for pixel in x.flatten(1).unbind(1):
            state = self.cell(before, state)
            outputs.append(self.out(state[0] if isinstance(state, tuple) else state))
            before = pixel.unsqueeze(1)
        return torch.stack(outputs, 2).view(n, 4, height, width)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_loops_of_others_are_refused_by_name(kind: str) -> None:
    model = nn.Sequential(Loop(kind))
    with pytest.raises(UnsupportedModel, match=rf"'0\.cell' \(nn\.{kind}\).*pixelfast\.lstm_scan"):
        pixelfast.compile(model, (1, 4, 3), Categorical(4), engine="reference")
    pixelfast.sample(model, n=1, shape=(1, 4, 3), head=Categorical(4), engine="naive")


# The operator.

SCANS = [
    ([(-1, 0)], (-1, 0)), ([(-1, -2), (-1, 0), (-2, 1)], (-1, 1)), ([(0, -1)], (0, -1)), ([(0, 1), (-1, 1)], (0, 1)),
    ([(-1, 0), (0, -2)], (0, -1)), ([(-1, 0), (0, 2), (0, 1)], (-1, 0)), ([(-1, 1)], (0, -1)), ([], (0, 2)),
    ([(-1, 0)], (-2, -1)),
]  # fmt: skip


@pytest.mark.parametrize(("offsets", "cell"), SCANS)
def test_operator_by_hand(offsets: list[tuple[int, int]], cell: tuple[int, int]) -> None:
    torch.manual_seed(0)
    gates, weights = torch.randn(2, 12, *SIZE, dtype=torch.float64), torch.randn(len(offsets), 3, 12, dtype=torch.float64)
    states, cells = torch.zeros(2, SIZE[0] + 4, SIZE[1] + 4, 2, 3, dtype=torch.float64).unbind()  # two pixels around
    backwards = any(row == 0 and col > 0 for row, col in [*offsets, cell])
    for row in range(2, SIZE[0] + 2):
        for col in range(2, SIZE[1] + 2)[:: -1 if backwards else 1]:
            total = gates[:, :, row - 2, col - 2].clone()
            for (up, beside), matrix in zip(offsets, weights, strict=True):
                total += states[row + up, col + beside] @ matrix
            out, forget, take, new = total.chunk(4, 1)
            cells[row, col] = forget.sigmoid() * cells[row + cell[0], col + cell[1]] + take.sigmoid() * new.tanh()
            states[row, col] = out.sigmoid() * cells[row, col].tanh()
    found = lstm_scan(gates, weights, offsets, cell)
    torch.testing.assert_close(found, states[2:-2, 2:-2].permute(2, 3, 0, 1))
    flat = [number for offset in offsets for number in offset]
    torch.testing.assert_close(torch.ops.pixelfast.lstm_scan(gates, weights, flat, list(cell)), found)


@pytest.mark.parametrize(("shift", "beside"), [(True, False), (False, False), (False, True), (True, True)])
@pytest.mark.parametrize(("offsets", "cell"), SCANS)
def test_own_recurrences(offsets: list[tuple[int, int]], cell: tuple[int, int], shift: bool, beside: bool) -> None:
    """Any LSTM over pixels; pixel by pixel where the own row needs it, else once per row."""
    torch.manual_seed(0)
    model = nn.Sequential(Own(offsets, cell, shift=shift, beside=beside)).eval()
    if beside and not shift and any(row == 0 and col > 0 for row, col in [*offsets, cell]):
        assert pixelfast.check(model, (1, *SIZE), Categorical(4)).leak is not None  # it comes from the right
        return
    found = trace(model, (1, *SIZE), Categorical(4))
    per_row = "lstm_scan: 5 features once per row" in str(found.compiled.schedule)
    assert per_row == (shift or not beside)
    assert compare(found, IMAGES) == 0
    assert compare(found, IMAGES, seed=1, given=some_known(found)) == 0


@pytest.mark.parametrize(("offsets", "cell"), SCANS)
def test_availability_and_reach_are_what_gradients_say(offsets: list[tuple[int, int]], cell: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = Own(offsets, cell).double().eval()
    x = torch.randn(1, 1, *SIZE, dtype=torch.float64, requires_grad=True)
    output = model(x)[0].sum(0).flatten()
    seen = torch.stack([torch.autograd.grad(y, x, retain_graph=True)[0].flatten() != 0 for y in output])  # (35, 35)
    graph = trace(model.float(), (1, *SIZE), Categorical(4)).compiled.analysis.graph
    (edge,) = graph.outputs[0]
    times = availability(graph)[edge.source]
    for pixel in range(len(seen)):
        row, col = divmod(pixel, SIZE[1])
        before = seen[pixel].nonzero().flatten()
        assert times.at(int(edge.channels[0]), row + edge.row, col + edge.col) == (int(before.max()) if len(before) else -1)
        assert np.array_equal(receptive_field(graph, row, col).pixels.reshape(-1), seen[pixel].numpy())


def test_gates_may_depend_on_conditions_and_constants() -> None:
    class Conditioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(1, 12, 3, padding=1)
            self.label = nn.Embedding(3, 12)
            self.weight = nn.Parameter(torch.randn(2, 4, 16) / 2)
            self.out = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            gates = self.first(down_shift(down_shift(x))) + self.label(label)[..., None, None]
            known = torch.linspace(-1, 1, 4 * 35).view(1, 4, *SIZE).expand(len(x), -1, -1, -1)
            gates = torch.cat([gates[:, :8], known, gates[:, 8:]], 1)
            return self.out(lstm_scan(gates, self.weight, [(-1, 0), (0, -1)], (0, -1)))

    torch.manual_seed(0)
    labels = torch.tensor([0, 2, 1])
    found = trace(Conditioned().eval(), (1, *SIZE), Categorical(4), labels)
    assert compare(found, IMAGES, cond=labels) == 0


@pytest.mark.parametrize("lstm", KINDS)
def test_layers_and_operator_have_the_same_gradients(lstm: str) -> None:
    """Training runs other loops than the operator; both are the same function."""
    torch.manual_seed(0)
    layer = (RowLSTM(6, 4, 3, 1) if lstm == "row" else DiagonalBiLSTM(6, 4, 1)).double()
    x = torch.randn(2, 6, *SIZE, dtype=torch.float64, requires_grad=True)

    def by_operator() -> Tensor:
        if isinstance(layer, RowLSTM):
            return lstm_scan(layer.input_to_state(x), taps_of(layer.state_to_state), [(-1, -1), (-1, 0), (-1, 1)], (-1, 0))
        left, right = (
            lstm_scan(gates(x), taps_of(state), [(-1, 0), beside], beside)  # type: ignore[arg-type]
            for gates, state, beside in zip(layer.input_to_state, layer.state_to_state, ((0, -1), (0, 1)), strict=True)
        )
        return left + down_shift(right)

    mark = torch.randn(2, 4, *SIZE, dtype=torch.float64)
    inputs = [x, *layer.parameters()]
    found, expected = layer(x), by_operator()
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad((found * mark).sum(), inputs), torch.autograd.grad((expected * mark).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_names_of_weights() -> None:
    row, diagonal = (set(PixelRNN((1, *SIZE), layers=1, lstm=lstm).state_dict()) for lstm in ("row", "diagonal"))
    assert {name for name in row if "state_to_state" in name} == {"layers.0.lstm.state_to_state.weight"}
    assert {name for name in diagonal if "state_to_state" in name} == {
        f"layers.0.lstm.state_to_state.{direction}.weight" for direction in (0, 1)
    }


@pytest.mark.parametrize(
    ("gates", "weights", "offsets"), [((2, 10, 4, 3), (1, 2, 8), 1), ((2, 8, 4, 3), (2, 2, 8), 1), ((2, 8, 4, 3), (1, 8, 2), 1)]
)
def test_shapes_that_do_not_fit(gates: tuple[int, ...], weights: tuple[int, ...], offsets: int) -> None:
    with pytest.raises(InvalidInput, match="lstm_scan needs gates"):
        lstm_scan(torch.zeros(gates), torch.zeros(weights), [(-1, 0)] * offsets, (-1, 0))
