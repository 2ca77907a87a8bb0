"""Training by maximum likelihood, with a state file from which a killed run goes on as if nothing had happened.

AdamW, linear warm-up and cosine decay, gradient clipping, and an exponential moving average (EMA) of the weights, which
is what is evaluated and saved. Everything random is keyed: the order of the images by (seed, epoch), their augmentation
by (seed, epoch, step); PyTorch's own generator (dropout) is part of the state.
"""

from __future__ import annotations

import copy
import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CheckpointError, InvalidInput, NumericalError, PixelfastError, UnsupportedModel, described, place_of
from ..files.access import locked, opened, path_of, status, write_atomically
from ..files.checkpoint import save
from ..files.weight_files import unpickled
from ..host.ending import leaves_at_exit, outside
from ..host.forking import pause
from ..inputs import arguments
from ..models import MODELS
from .images import augment, check_images, parts_of
from .likelihood import head_of, inputs, log_probs, loss_of, predict
from .options import TrainOptions

STATE = "training.pt"


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to. Bits/dim are -log2 p(image) / (C H W), averaged over images.

    ``train_bits`` is measured on the way, by the weights of each step; ``test_bits`` on the held-out images by the
    averaged weights, or nan without held-out images.
    """

    epoch: int
    train_bits: float
    test_bits: float
    seconds: float


@leaves_at_exit
@torch.no_grad()
def bits_per_dim(
    model: nn.Module, images: Tensor, labels: Tensor | None = None, maps: Tensor | None = None, *, batch_size: int = 64
) -> float:
    """-log2 p(image) / (C H W), averaged over integer ``images`` (N, C, H, W): bits for each sub-pixel.

    A uniform distribution over K levels has log2 K. The model needs ``head`` and an output (N, P, C, H, W), or (N, P, H, W)
    where the channels of a pixel share its parameters. An auto-encoder has -log2 p(image | its code).
    """
    check_images(model, images, labels, maps)
    batch_size = arguments.count_of("batch_size", batch_size)
    training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        total = 0.0
        for start in range(0, len(images), batch_size):
            pause()
            part = slice(start, start + batch_size)
            values = images[part].to(device)
            with _running(model, "scores images"):
                output = predict(model, values, *(None if t is None else t[part].to(device) for t in (labels, maps)))
                total -= float(log_probs(head_of(model), output, values).sum())
    finally:
        model.train(training)
    return total / images.numel() / math.log(2)


@leaves_at_exit
def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    maps: Tensor | None = None,
    *,
    test: Sequence[Tensor | None] | None = None,
    options: TrainOptions | None = None,
    folder: str | Path | None = None,
    resume: bool = True,
    extra: Mapping[str, Any] | None = None,
    progress: bool = False,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train ``model`` in place; it ends with the averaged weights, in evaluation mode.

    Args:
        model: one of ``pixelfast.models``; without ``folder`` any module with ``head`` and an output (N, P, C, H, W),
            or (N, P, H, W) where the channels of a pixel share its parameters. A method ``initialise`` is called once, with the
            first batch; a method ``reconstruct`` instead of the module itself.
        images: integers of 0 .. K-1, (N, C, H, W).
        labels: the condition h, for a model that takes one: labels (N,) or vectors (N, D).
        maps: the condition s, (N, M, H, W).
        test: held-out (images,), (images, labels) or (images, labels, maps).
        folder: where ``model.safetensors`` (averaged weights), ``config.json`` and ``training.pt`` (the state) are
            written after every epoch, each whole or not at all. It is locked in the meantime.
        resume: go on from the state in ``folder``, if there is one; False starts anew.
        extra: what else belongs into ``config.json``.
        progress: show a tqdm bar, if tqdm is installed.
        on_epoch: called after each epoch of this call.

    Raises:
        InvalidInput: images, labels or options do not fit the model or each other.
        CheckpointError: the state in ``folder`` is damaged, or belongs to other options, data or another model.
        NumericalError: the loss became NaN or infinite.
        OutputError: another run is writing ``folder``, or it cannot be written; what was saved before is still there.
        UnsupportedModel: the model itself raises an error.
    """
    options = TrainOptions() if options is None else options
    if not isinstance(options, TrainOptions):
        raise InvalidInput(f"options must be TrainOptions, got {type(options).__name__}")
    arguments.check_flags(resume=resume, progress=progress)
    arguments.check_type("extra", extra, Mapping, "a dictionary")  # type: ignore[type-abstract]
    arguments.check_type("test", test, (tuple, list), "a tuple of tensors")
    arguments.callback_of("on_epoch", on_epoch)
    check_images(model, images, labels, maps)
    held = None if test is None else parts_of(test)
    if held is not None:
        check_images(model, *held)
    if folder is not None and type(model) not in MODELS.values():
        raise InvalidInput(f"folder= saves one of {sorted(MODELS)}, and {type(model).__name__} is none: train without folder=")
    place = None if folder is None else path_of(folder)
    run = _Run(model, (images, labels, maps), options, place)
    with nullcontext() if place is None else locked(place), torch.random.fork_rng(devices=run.cuda):
        torch.manual_seed(options.seed)
        if resume:
            run.resume()
        while run.epoch < options.epochs:
            run.one_epoch(progress)
            bits = bits_per_dim(run.average, *held) if held is not None else math.nan
            report = run.close_epoch(bits, extra or {})
            if on_epoch is not None:
                with outside():
                    on_epoch(report)
    model.load_state_dict(run.average.state_dict())
    model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    return run.history


class _Run:
    """Everything that a run changes: weights, their average, the optimiser, and where it stands."""

    def __init__(
        self,
        model: nn.Module,
        data: tuple[Tensor, Tensor | None, Tensor | None],
        options: TrainOptions,
        folder: Path | None,
    ) -> None:
        if options.bfloat16:  # PyTorch's bfloat16 convolutions on a CPU are a third faster with channels last.
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model, self.data, self.options, self.folder = model, data, options, folder
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=options.weight_decay)
        self.device = next(model.parameters()).device
        self.cuda = [self.device] if self.device.type == "cuda" else []
        self.steps = -(-len(data[0]) // options.batch_size)
        self.epoch = self.step = 0
        self.nats = self.seconds = 0.0
        self.history: list[Epoch] = []

    def one_epoch(self, progress: bool) -> None:
        """The steps of this epoch that are still to do."""
        self.model.train()
        started = time.perf_counter()
        order = np.random.default_rng([self.options.seed, self.epoch]).permutation(len(self.data[0]))
        for step in _bar(range(self.step, self.steps), progress, f"epoch {self.epoch + 1}/{self.options.epochs}"):
            chosen = torch.from_numpy(order[step * self.options.batch_size : (step + 1) * self.options.batch_size])
            pause()
            self._one_step(step, chosen)
            self.step = step + 1
            if self.options.save_every and self.step % self.options.save_every == 0 and self.step < self.steps:
                self._pass_time(started)
                started = time.perf_counter()
                self.write_state()
        self._pass_time(started)

    def _pass_time(self, started: float) -> None:
        self.seconds += time.perf_counter() - started

    def _one_step(self, step: int, chosen: Tensor) -> None:
        images, labels, maps = (None if part is None else part[chosen] for part in self.data)
        assert images is not None
        if self.options.shift or self.options.flip:
            rng = np.random.default_rng([self.options.seed, self.epoch, step])
            images, maps = augment(images, maps, self.options, rng)
        values, labels, maps = (None if part is None else part.to(self.device) for part in (images.long(), labels, maps))
        assert values is not None
        at = self.epoch * self.steps + step
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(at, self.steps * self.options.epochs, self.options)
        if at == 0 and hasattr(self.model, "initialise"):
            with _running(self.model, "is initialised"):
                cast(Any, self.model).initialise(*inputs(self.model, values, labels, maps))
            self.average.load_state_dict(self.model.state_dict())
        with _running(self.model, f"trains, in epoch {self.epoch + 1}, step {step + 1},"):
            with self._autocast():
                output = predict(self.model, values, labels, maps)
            loss = loss_of(head_of(self.model), output, values)
        if not torch.isfinite(loss):
            raise NumericalError(
                f"the loss is {loss.item()} in epoch {self.epoch + 1}, step {step + 1}: try a lower lr or clip"
            )
        self.optimiser.zero_grad(set_to_none=True)
        with _running(self.model, "is differentiated"):
            loss.backward()
        if self.options.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip)
        self.optimiser.step()
        self._update_average(at)
        self.nats += float(loss.detach()) * len(chosen)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.options.bfloat16 else nullcontext()

    @torch.no_grad()
    def _update_average(self, at: int) -> None:
        # Early averages would remember the random start: the decay grows with the number of steps.
        decay = min(self.options.ema, (1 + at) / (10 + at))
        for mean, parameter in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(parameter, 1 - decay)
        for copied, buffer in zip(self.average.buffers(), self.model.buffers(), strict=True):
            copied.copy_(buffer)

    def close_epoch(self, test_bits: float, extra: Mapping[str, Any]) -> Epoch:
        """Report this epoch, save, and stand before the next."""
        train_bits = self.nats / len(self.data[0]) / math.log(2)
        report = Epoch(self.epoch + 1, train_bits, test_bits, self.seconds)
        self.history.append(report)
        self.epoch, self.step, self.nats, self.seconds = self.epoch + 1, 0, 0.0, 0.0
        if self.folder is not None:
            measured = None if math.isnan(test_bits) else round(test_bits, 5)
            facts = {"epochs": self.epoch, "bits_per_dim": measured, "training": asdict(self.options)}
            save(self.average, self.folder, {**extra, **facts})
            self.write_state()
        return report

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a state to be continued."""
        parts = [part for part in self.data if part is not None]
        data = [[list(part.shape), zlib.crc32(part.contiguous().cpu().numpy().tobytes())] for part in parts]
        options = {field.name: getattr(self.options, field.name) for field in fields(self.options)}
        del options["save_every"]
        return {
            "model": [type(self.model).__name__, getattr(self.model, "config", {})],
            "data": data,
            "options": options,
        }

    def write_state(self) -> None:
        """Write the state file, if there is a folder."""
        if self.folder is None:
            return
        state = {
            "identity": self._identity(),
            "position": [self.epoch, self.step, self.nats, self.seconds],
            "history": [asdict(report) for report in self.history],
            "weights": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self.cuda)],
        }
        write_atomically(self.folder / STATE, lambda path: torch.save(state, path))

    def resume(self) -> None:
        """Stand where the state file in the folder left off, if there is one."""
        file = self.folder / STATE if self.folder is not None else None
        if file is None or status(file, CheckpointError) is None:
            return
        try:
            with opened(file, "training state", error=CheckpointError) as source:
                state = unpickled(source, self.device)
                identity = dict(state["identity"])
        except CheckpointError as error:
            raise _damaged(file, str(error)) from error
        for name, wanted in self._identity().items():
            if identity.get(name) != wanted:
                raise CheckpointError(
                    f"{file} belongs to another run: its {name} is {identity.get(name)}, this one's {wanted}. "
                    "Choose another folder, or start anew with resume=False (--restart)"
                )
        try:
            self._take(state)
        except Exception as error:  # what a damaged file holds can be anything
            raise _damaged(file, described(error)) from error

    def _take(self, state: Mapping[str, Any]) -> None:
        """Stand where a state says; some error if it is none of this run."""
        epoch, step, nats, seconds = state["position"]
        history = [Epoch(**report) for report in state["history"]]
        counts = (type(epoch), type(step)) == (int, int) and 0 <= epoch <= self.options.epochs and 0 <= step < self.steps
        if not (counts and len(history) == epoch and math.isfinite(nats + seconds)):
            raise ValueError(f"it stands at {state['position']} after {len(history)} epochs of {self.options.epochs}")
        own = [{name: value for name, value in group.items() if name != "lr"} for group in self._groups()]
        self.model.load_state_dict(state["weights"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        if [{name: value for name, value in group.items() if name != "lr"} for group in self._groups()] != own:
            raise ValueError("the optimiser has other options")
        for parameter, kept in self.optimiser.state.items():
            if any(t.ndim and t.shape != parameter.shape for t in kept.values()):
                raise ValueError("what the optimiser remembers has other shapes than the weights")
        for device, rng in zip([None, *self.cuda], state["rng"], strict=False):
            torch.set_rng_state(rng.cpu()) if device is None else torch.cuda.set_rng_state(rng.cpu(), device)
        self.epoch, self.step, self.nats, self.seconds, self.history = epoch, step, nats, seconds, history

    def _groups(self) -> list[dict[str, Any]]:
        return self.optimiser.state_dict()["param_groups"]


def _damaged(file: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{file} is damaged or no training state: {reason}; resume=False (--restart) starts anew")


@contextmanager
def _running(model: nn.Module, doing: str) -> Iterator[None]:
    """Whatever a model raises becomes an error of ours that says where."""
    try:
        yield
    except PixelfastError:
        raise
    except Exception as error:
        raise UnsupportedModel(f"{type(model).__name__} {doing} and raises {described(error)} ({place_of(error)})") from error


def learning_rate(step: int, steps: int, options: TrainOptions) -> float:
    """Linear from 0 to ``lr`` over the warm-up, then half a cosine down to 0."""
    warmup = min(options.warmup, steps // 10)
    if step < warmup:
        return options.lr * (step + 1) / warmup
    return options.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def _bar(steps: range, progress: bool, title: str) -> Iterator[int]:
    if progress:
        try:
            from tqdm import tqdm
        except ImportError:
            return iter(steps)
        return iter(tqdm(steps, desc=title, leave=False))
    return iter(steps)
