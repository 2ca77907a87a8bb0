"""A folder of pictures as arrays: which files count, which folders are classes, and which are the parts of a split."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataWarning, InvalidInput
from ..inputs.announce import announce
from .picture_files import PICTURES, Picture, PictureOptions, pillow, read_pictures, stacked

TRAIN = {"train", "training"}
TEST = {"test", "testing"}
VALID = {"val", "valid", "validation"}
SPLITS = TRAIN | TEST | VALID
LIKE_SPLITS = re.compile(r"(train|test|val|valid|eval|dev)(ing|idation|uation)?(set|data|images?|[ab])?([\W_\d].*)?", re.I)
"""Names that may mean the parts of a split as well: test_images, val2017, trainA."""
LEFT_BEHIND = {"__MACOSX", "@eaDir"}
"""Folders that archivers and file servers add; names that begin with a dot are not looked at either."""


def read_folder(path: Path, options: PictureOptions) -> dict[str, Any]:
    """The parts of a data set: ``images``, their ``bits``, and where there are some, ``labels``, ``classes`` and a test part.

    Subfolders named train and test (or val) are the parts of a split, all others are classes.

    Raises:
        InvalidInput: there are no pictures, or it is not clear what the folders mean.
    """
    pillow()
    train, test = _parts(path)
    files, test_files = _pictures(train), [] if test is None else _pictures(test)
    classes = _classes(train, files)
    if test is not None:
        own = _classes(test, test_files)
        unknown = sorted(set(own) - set(classes))
        if unknown or bool(own) != bool(classes):
            found = f"has the classes {', '.join(unknown)}" if unknown else "has no class folders"
            raise InvalidInput(f"{test} {found}, but {train} has {', '.join(classes) or 'none'}: both need the same ones")
    pictures = read_pictures([*files, *test_files], options)
    images, bits = stacked(pictures)
    held_out = set(test_files)
    count = sum(picture.file not in held_out for picture in pictures)
    parts: dict[str, Any] = {"classes": classes, "bits": bits, "images": images[:count]}
    if test is not None:
        parts["test_images"] = images[count:]
    if classes:
        parts["labels"] = _labels(train, pictures[:count], classes)
    if classes and test is not None:
        parts["test_labels"] = _labels(test, pictures[count:], classes)
    return parts


def _seen(folder: Path) -> list[Path]:
    """What a person sees in a folder, in the order of names."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.name not in LEFT_BEHIND)


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in _seen(folder) if entry.is_dir()]


def _pictures(folder: Path) -> list[Path]:
    """All pictures below a folder, in the order of their paths."""
    result = sorted(_below(folder))
    if not result:
        raise InvalidInput(f"{folder} holds no pictures ({', '.join(sorted(PICTURES))})")
    return result


def _below(folder: Path) -> Iterator[Path]:
    place = folder.resolve()
    for entry in _seen(folder):
        if entry.is_dir():
            if entry.resolve() not in (place, *place.parents):  # a link back would never end
                yield from _below(entry)
        elif entry.suffix.lower() in PICTURES:
            yield entry


def _parts(path: Path) -> tuple[Path, Path | None]:
    """The folder to train on, and the one that is held out, if there is one."""
    folders = {folder.name.lower(): folder for folder in _folders(path)}
    train, test, val = ([folders[name] for name in sorted(names & set(folders))] for names in (TRAIN, TEST, VALID))
    splits = [*train, *test, *val]
    if not splits:
        return path, None
    others = sorted(set(folders) - SPLITS)
    loose = [entry for entry in _seen(path) if entry.is_file() and entry.suffix.lower() in PICTURES]
    if others or loose or len(train) != 1 or len(test) > 1 or len(val) > 1:
        beside = [folders[name].name + "/" for name in others] + [file.name for file in loose[:1]]
        raise InvalidInput(
            f"{path} holds {', '.join(folder.name + '/' for folder in splits)}"
            f"{' and ' + ', '.join(beside) if beside else ''}: a split needs one train/ and may have test/ or val/, and "
            f"nothing beside them. Give the path of one part ({splits[0]}), or rename folders that are classes"
        )
    if test and val:
        announce(f"{val[0]} is left out: {test[0]} is what is held out", DataWarning)
    held = test or val
    return train[0], held[0] if held else None


def _classes(path: Path, files: Sequence[Path]) -> tuple[str, ...]:
    """The names of the classes, sorted; () where all pictures lie in the folder itself."""
    places = [file.relative_to(path).parts for file in files]
    loose = [place[0] for place in places if len(place) == 1]
    names = tuple(sorted({place[0] for place in places if len(place) > 1}))
    if not names:
        return ()
    alike = [LIKE_SPLITS.fullmatch(name) for name in names]
    if all(alike) and len({found[1].lower() for found in alike if found}) > 1:
        raise InvalidInput(
            f"{path} holds {', '.join(f'{name}/' for name in names)}, which are named like the parts of a split: name them "
            f"train/ and test/, give the path of one part ({path / names[0]}), or rename folders that are classes"
        )
    if loose:
        raise InvalidInput(
            f"{path} holds pictures ({loose[0]}) and folders of pictures ({names[0]}/): where folders are classes, "
            "every picture belongs into one; where they are not, move all pictures into one folder"
        )
    empty = [folder for folder in _folders(path) if folder.name not in names]
    if empty:
        raise InvalidInput(f"{empty[0]} stands among folders that are classes ({names[0]}/), but holds no pictures: remove it")
    inner = next((place for place in places if len(place) > 2 and place[1].lower() in SPLITS), None)
    if inner is not None:
        raise InvalidInput(
            f"{path / inner[0] / inner[1]} is a part of a split inside a class: arrange them as {inner[1]}/{inner[0]}/ instead"
        )
    return names


def _labels(path: Path, pictures: Sequence[Picture], classes: tuple[str, ...]) -> np.ndarray:
    return np.array([classes.index(picture.file.relative_to(path).parts[0]) for picture in pictures])
