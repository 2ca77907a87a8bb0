"""Matching: which tensor of a weight file belongs to which tensor of a model, and what is left over on either side.

Names are compared without what wrappers add to them (`module.`, `_orig_mod.`, anywhere), and with either kind of weight_norm
called alike. What stands before the model's names in the file (`state_dict.`, `model.`, `prior.`) is found by trying: it is
the prefix under which most of the model's parameters lie, with their shapes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, described, place_of

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names that DataParallel, torch.compile and others add."""
AVERAGED = ("ema", "ema_state_dict", "state_dict_ema", "shadow", "ema_model", "model_ema", "ema_params")
"""Parts of names that say: a running average of the weights."""
USUAL = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "online_model")
"""Parts of names that say nothing, and are preferred where a file leaves a choice."""
SHOWN = 8
"""Names in a message; the rest is counted."""


@dataclass(frozen=True)
class Match:
    """How a weight file fits a model; print it to read it.

    Names in `matched`, `missing` and `kept` are the model's, those in `unexpected`, `ignored` and `elsewhere` the file's.

    Attributes:
        path: the file.
        model: class of the model.
        prefix: what stands before the model's names in the file.
        averaged: these are averaged weights (EMA).
        others: further prefixes under which the file has weights of this model.
        matched: tensors that the file has, in the model's shape.
        missing: weights that the file lacks.
        unexpected: weights under `prefix` that the model lacks.
        kept: tensors that the file lacks and that are no weights (masks, counters): the model keeps its own.
        ignored: tensors under `prefix` that the model lacks and that are no weights.
        elsewhere: tensors of the file under none of these prefixes.
        shapes: (name, shape in the file, shape in the model) where they differ.
        near: for a missing or an unexpected name, the nearest one on the other side with its shape.
    """

    path: Path
    model: str
    prefix: str
    averaged: bool
    others: tuple[str, ...]
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    kept: tuple[str, ...]
    ignored: tuple[str, ...]
    elsewhere: tuple[str, ...]
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    near: Mapping[str, str]

    @property
    def complete(self) -> bool:
        """Every weight of the model comes from the file, and nothing of the file's is left."""
        return not (self.missing or self.unexpected or self.shapes)

    def require(self, strict: bool) -> None:
        """Raise CheckpointError unless the file fits; if not `strict`, weights may be missing or left over."""
        if not self.matched and not self.shapes:
            raise CheckpointError(f"nothing in {self.path} fits {self.model}:\n{self._differences()}")
        if self.shapes:
            lines = [f"  {name}: file {file}, model {model}" for name, file, model in self.shapes[:SHOWN]]
            raise CheckpointError(
                f"{self.path}: {len(self.shapes)} tensors have other shapes than the model's: was it built with other "
                "arguments (features, levels, classes)?\n" + "\n".join(lines)
            )
        if strict and not self.complete:
            raise CheckpointError(
                f"{self.path} does not fit {self.model}:\n{self._differences()}\nIf that is right so, pass strict=False "
                "(--no-strict): the model then keeps its own tensors where the file has none"
            )

    def remarks(self) -> list[str]:
        """What a user should know, a line each; nothing where the file fits."""
        lines = []
        if self.averaged and not self.others:
            lines.append(f"the file holds averaged weights only (EMA, under {self.prefix!r})")
        if self.missing:
            lines.append(f"missing in the file, so the model keeps its own: {_some(self.missing)}")
        if self.unexpected:
            lines.append(f"not in the model, so left out: {_some(self.unexpected)}")
        return lines

    def _differences(self) -> str:
        lines = [f"  missing in the file: {name}{self.near.get(name, '')}" for name in self.missing[:SHOWN]]
        lines += [f"  not in the model: {name}{self.near.get(name, '')}" for name in self.unexpected[:SHOWN]]
        return "\n".join(lines) + f"\n({len(self.missing)} missing, {len(self.unexpected)} unexpected in all)"

    def __str__(self) -> str:
        wanted = len(self.matched) + len(self.missing) + len(self.shapes) + len(self.kept)
        place = f", under {self.prefix!r}" if self.prefix else ""
        lines = [f"{self.path.name} into {self.model}: {len(self.matched)} of {wanted} tensors{place}"]
        lines += [f"other shape: {name}: file {file}, model {model}" for name, file, model in self.shapes]
        lines += self.remarks()
        if self.others:
            kinds = ", ".join(f"{prefix!r}{' (averaged: ema=True)' if is_averaged(prefix) else ''}" for prefix in self.others)
            lines.append(f"weights of this model are in the file also under {kinds}")
        if self.kept:
            lines.append(f"no weights, the model keeps its own: {_some(self.kept)}")
        if self.ignored:
            lines.append(f"no weights, left out: {_some(self.ignored)}")
        if self.elsewhere:
            lines.append(f"elsewhere in the file: {_some(self.elsewhere)}")
        return "\n".join(lines)


def match_weights(
    tensors: Mapping[str, Tensor], model: nn.Module, path: Path, ema: bool = False, prefix: str | None = None
) -> tuple[Match, dict[str, Tensor]]:
    """How a file's tensors fit a model, and those that do, by the names of the model.

    Args:
        ema: take averaged weights.
        prefix: take what stands under this prefix; by default it is found.

    Raises:
        CheckpointError: the file has several sets of weights for this model, no averaged ones, or nothing under `prefix`;
            or the model has no tensors yet.
    """
    wanted = _tensors_of(model)
    names, found = _canonical(wanted), _canonical(tensors)
    places = _places(names, found, wanted, tensors)
    chosen = _choose(places, found, tensors, path, ema, prefix)
    others = tuple(place for place in places if place != chosen and 2 * places[place] >= max(places.values()) > 0)
    under = {name: own for name, own in found.items() if _is_inside(name, chosen, names)}
    inside = {name.removeprefix(chosen): own for name, own in under.items()}
    if is_averaged(chosen):  # averages are kept of parameters only: buffers stand with the weights themselves
        plain = next((place for place in others if not is_averaged(place)), None)
        buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
        if plain is not None:
            own = {name: found[plain + name] for name in names if names[name] in buffers and plain + name in found}
            inside = {**own, **inside}
    both = {names[name]: tensors[inside[name]] for name in names if name in inside}
    fits = {name: tensor for name, tensor in both.items() if tensor.shape == wanted[name].shape}
    _same_kind(fits, wanted, {name for name, _ in model.named_parameters(remove_duplicate=False)}, path)
    stored = {_address(wanted[name]) for name in fits}
    lacking = [name for name in wanted if name not in both and _address(wanted[name]) not in stored]
    surplus = [own for name, own in inside.items() if name not in names]
    missing = tuple(name for name in lacking if not _no_weight(name, wanted[name]))
    unexpected = tuple(own for own in surplus if not _no_weight(own, tensors[own]))
    report = Match(
        path=path,
        model=type(model).__name__,
        prefix=chosen,
        averaged=is_averaged(chosen),
        others=others,
        matched=tuple(fits),
        missing=missing,
        unexpected=unexpected,
        kept=tuple(name for name in lacking if name not in missing),
        ignored=tuple(own for own in surplus if own not in unexpected),
        elsewhere=tuple(own for name, own in found.items() if name not in under and not name.startswith(others)),
        shapes=tuple((n, tuple(t.shape), tuple(wanted[n].shape)) for n, t in both.items() if n not in fits),
        near={**_nearest(missing, unexpected, tensors), **_nearest(unexpected, missing, wanted)},
    )
    return report, fits


def _same_kind(fits: Mapping[str, Tensor], wanted: Mapping[str, Tensor], trained: Collection[str], path: Path) -> None:
    """Refuse what has the shape of a weight and is none: complex numbers, and integers, which some code made of weights."""
    for name, tensor in fits.items():
        lost = tensor.is_complex() and not wanted[name].is_complex()
        coded = name in trained and wanted[name].is_floating_point() and not (tensor.is_floating_point() or tensor.is_complex())
        if lost or coded:
            raise CheckpointError(
                f"{path}: {name} is {tensor.dtype}, but the model's is {wanted[name].dtype}: store the weights as floats"
            )


def is_averaged(prefix: str) -> bool:
    """Whether averaged weights stand under a prefix; those in training may stand beside them (ema_pytorch: online_model)."""
    parts = prefix.split(".")
    return any(part in AVERAGED for part in parts) and "online_model" not in parts


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    try:
        found = model.state_dict()
    except Exception as error:  # a state_dict of their own may raise anything
        raise CheckpointError(
            f"state_dict() of {type(model).__name__} raises {described(error)} ({place_of(error)})"
        ) from error
    state = {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
    for name, tensor in state.items():
        if nn.parameter.is_lazy(tensor) or tensor.is_meta:
            kind = "lazy" if nn.parameter.is_lazy(tensor) else "on the meta device"
            raise CheckpointError(
                f"{name} of {type(model).__name__} has no memory yet, it is {kind}: build the model on the CPU, and run it "
                "once on an image if it is lazy"
            )
    return state


def _canonical(names: Iterable[str]) -> dict[str, str]:
    """Names without wrappers and with one spelling of weight_norm -> names as they are; as they are where two become one."""
    result: dict[str, str] = {}
    for name in sorted(names, key=lambda name: sum(part in WRAPPERS for part in name.split("."))):
        short = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        short = re.sub(r"(^|\.)parametrizations\.(\w+)\.original0$", r"\1\2_g", short)
        short = re.sub(r"(^|\.)parametrizations\.(\w+)\.original1$", r"\1\2_v", short)
        result[name if short in result else short] = name
    return result


def _places(
    names: Mapping[str, str], found: Mapping[str, str], wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, int]:
    """Every prefix under which a name of the model stands, and how many do so with the model's shape."""
    places: dict[str, int] = {}
    longest = max((name.count(".") + 1 for name in names), default=0)
    for name, own in found.items():
        parts = name.split(".")
        for start in range(max(0, len(parts) - longest), len(parts)):
            rest = ".".join(parts[start:])
            if rest in names:
                prefix = name.removesuffix(rest)
                places[prefix] = places.get(prefix, 0) + (tensors[own].shape == wanted[names[rest]].shape)
    return places


def _choose(
    places: Mapping[str, int],
    found: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    path: Path,
    ema: bool,
    prefix: str | None,
) -> str:
    """The prefix under which the model's weights stand in the file."""
    if prefix is not None:
        asked = ".".join(part for part in prefix.split(".") if part and part not in WRAPPERS)
        asked = f"{asked}." if asked else ""
        if not any(name.startswith(asked) for name in found):
            raise CheckpointError(f"nothing in {path} stands under {prefix!r}: its names are {_some(found.values())}")
        return asked
    averaged = {place: count for place, count in places.items() if is_averaged(place)}
    plain = {place: count for place, count in places.items() if place not in averaged}
    if ema and not averaged:
        raise CheckpointError(
            f"{path} holds no averaged weights of this model (under {', '.join(AVERAGED)}): leave ema=True out, or name their "
            f"place by prefix=. Its names are {_some(found.values())}"
        )
    most = max(averaged.values(), default=0)
    pool = averaged if ema or 2 * max(plain.values(), default=-1) < most else plain
    if not pool:
        return ""
    best = [place for place, count in pool.items() if count == max(pool.values())]
    usual = [place for place in best if all(part in (*USUAL, *AVERAGED, "") for part in place.split("."))]
    best = usual or best
    if len(best) > 1 and max(pool.values()) > 0 and not _same(best, found, tensors):
        raise CheckpointError(
            f"{path} holds several sets of weights that fit this model, under {', '.join(map(repr, best))}: "
            f"name one of them, for instance prefix={best[0]!r}"
        )
    return min(best, key=len)


def _same(places: list[str], found: Mapping[str, str], tensors: Mapping[str, Tensor]) -> bool:
    """Whether what stands under several prefixes is the same."""
    sets = [{n.removeprefix(p): tensors[own] for n, own in found.items() if n.startswith(p)} for p in places]
    first = sets[0]
    return all(
        other.keys() == first.keys() and all(a.dtype == other[n].dtype and torch.equal(a, other[n]) for n, a in first.items())
        for other in sets[1:]
    )


def _is_inside(name: str, prefix: str, names: Collection[str]) -> bool:
    """Whether a name stands under a prefix; averages, which may stand beside the weights, only under one of their own."""
    if not name.startswith(prefix):
        return False
    rest = name.removeprefix(prefix)
    return rest in names or is_averaged(prefix) or not is_averaged(rest)


def _no_weight(name: str, tensor: Tensor) -> bool:
    """Whether a tensor was not trained: counters and other integers, and masks of zeros and ones."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    last = name.rpartition(".")[2]
    return bool(re.fullmatch(r"(\w*_)?masks?(_?[a-zA-Z0-9])?", last)) and bool(((tensor == 0) | (tensor == 1)).all())


def _address(tensor: Tensor) -> tuple[object, ...]:
    """Equal for tensors that are tied."""
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, None if tensor.numel() else id(tensor)


def _nearest(names: Iterable[str], others: Iterable[str], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """For each name of a message, the nearest of the others, in brackets with its shape."""
    near, pool = {}, list(others)
    for name in list(names)[:SHOWN]:
        for other in difflib.get_close_matches(name, pool, 1, 0.5):
            near[name] = f" (nearest: {other}, {tuple(tensors[other].shape)})"
    return near


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
