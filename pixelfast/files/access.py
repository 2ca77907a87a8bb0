"""How files are read and written: regular files only, no more bytes than a limit, whole or not at all, by one writer at a time.

Whatever the system, Python or a library raises on the way becomes an error of ours that names the file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import BinaryIO

from ..errors import InvalidInput, OutputError, PixelfastError, described

try:
    import fcntl
except ImportError:  # Windows, where folders are not locked
    fcntl = None  # type: ignore[assignment]

MAX_BYTES = 2**30
"""The bytes that a file may open to, unless it takes more on the disk. ``max_bytes=`` and ``--max-bytes`` raise the limit."""
PART = ".part"

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


@dataclass
class Source:
    """An open file, and how many bytes may be made of it."""

    path: Path
    handle: BinaryIO
    size: int
    limit: int
    error: type[PixelfastError]

    def allow(self, size: int, what: str = "it") -> None:
        """Refuse what says that it is larger than the limit, before it is read."""
        if size > self.limit:
            raise self.error(
                f"{self.path}: {what} opens to {size:,} bytes, and the limit is {self.limit:,}: raise it by max_bytes= "
                "(--max-bytes), where the file is to be trusted and the memory is there"
            )


@contextlib.contextmanager
def opened(
    path: str | Path, kind: str, max_bytes: int = MAX_BYTES, error: type[PixelfastError] = InvalidInput
) -> Iterator[Source]:
    """Open a file to be read as a ``kind``; what goes wrong in the meantime is raised as ``error``, with the file's name.

    Pipes and devices are refused: they may wait or go on for ever.
    """
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, Integral) or max_bytes < 1:
        raise InvalidInput(f"max_bytes must be an integer of at least 1, got {max_bytes!r}")
    path = path_of(path, error)
    try:
        # Not to wait for a pipe's other end: the kind is known once it is open, and cannot change any more.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as handle:
            result = os.fstat(handle.fileno())
            for is_kind, name in KINDS:
                if is_kind(result.st_mode):
                    raise error(f"{path} is no readable {kind}: it is {name}, and a regular file is needed")
            on_disk = getattr(result, "st_blocks", -(-result.st_size // 512)) * 512  # a file may have holes
            yield Source(path, handle, result.st_size, max(int(max_bytes), min(on_disk, result.st_size)), error)
    except PixelfastError:
        raise
    except Exception as failure:  # a damaged file can fail in any way, in any of the libraries that read it
        raise error(f"{path} is {_reason(failure, kind)}") from failure


def _reason(failure: Exception, kind: str) -> str:
    if isinstance(failure, FileNotFoundError):
        return f"no readable {kind}: there is no such file"
    if isinstance(failure, OSError) and failure.errno is not None:
        return f"no readable {kind}: {failure.strerror}"
    if isinstance(failure, MemoryError):
        return f"no readable {kind}: the memory of this machine is too small for it"
    return f"truncated or no readable {kind}: {described(failure)}"


def path_of(path: object, error: type[PixelfastError] = InvalidInput) -> Path:
    """A path that was given as text or as a path."""
    if not isinstance(path, (str, os.PathLike)):
        raise error(f"a path is text or a pathlib.Path, got {type(path).__name__}")
    if path == "":  # pathlib takes it for the folder one is in
        raise error("a path is empty: say the file or folder, and . for the folder that this runs in")
    return Path(path)


def status(path: str | Path, error: type[PixelfastError] = InvalidInput) -> os.stat_result | None:
    """What the system knows of a path, None where there is nothing."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as failure:  # a loop of links, no right to look, a name that is too long or holds a NUL
        reason = failure.strerror if isinstance(failure, OSError) else failure
        raise error(f"{str(path)!r} cannot be looked up: {reason}") from failure


def is_folder(path: str | Path, error: type[PixelfastError] = InvalidInput) -> bool:
    result = status(path, error)
    return result is not None and stat.S_ISDIR(result.st_mode)


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """``write`` a temporary file beside ``path`` and move it there: a reader finds the old file or the new one.

    Raises:
        OutputError: the file cannot be written; what was there is still there.
    """
    write_together({Path(path): write})


def write_together(files: dict[Path, Callable[[Path], object]]) -> None:
    """Write several files whole or not at all: all are complete before the first one is moved to its place."""
    with contextlib.ExitStack() as stack:
        parts = {}
        for path, write in files.items():
            try:
                parts[path] = stack.enter_context(_part(path))
                write(parts[path])
                _to_disk(parts[path])
            except PixelfastError:
                raise
            except Exception as failure:
                raise _not_written(path, failure) from failure
        for path, part in parts.items():
            try:
                os.replace(part, path)
            except OSError as failure:
                raise _not_written(path, failure) from failure


def _not_written(path: Path, failure: Exception) -> OutputError:
    reason = failure.strerror if isinstance(failure, OSError) and failure.strerror else described(failure)
    full = isinstance(failure, OSError) and failure.errno in (errno.ENOSPC, errno.EDQUOT)
    with contextlib.suppress(OSError):  # libraries say in words of their own that the disk is full
        place = os.statvfs(path.parent)
        full = full or place.f_blocks > place.f_bavail == 0  # what is no disk, as /proc, has no blocks
    return OutputError(
        f"{path} cannot be written: {'no space is left on the disk' if full else reason}. What was there before is kept"
    )


@contextlib.contextmanager
def _part(path: Path) -> Iterator[Path]:
    """An empty file beside ``path`` that is gone afterwards, and is locked so that nobody takes it for a leftover."""
    remove_leftovers(path.parent, path.name)
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
        if _lock(handle) is not False:  # else another took it for a leftover in between
            break
        os.close(handle)
    try:
        if fcntl is None:
            os.close(handle)  # Windows moves no open file
        os.chmod(name, 0o644)
        yield Path(name)
    finally:
        if fcntl is not None:
            os.close(handle)
        Path(name).unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Remove temporary files, of one name or all, whose writers were killed: the system has unlocked them."""
    with contextlib.suppress(OSError):
        ours = re.compile(rf"\.{re.escape(name) or '.+'}\.\w{{8}}{re.escape(PART)}")
        for left in folder.iterdir():
            if ours.fullmatch(left.name) and left.is_file():
                with left.open("rb+") as handle:
                    if _lock(handle.fileno()) is True:
                        left.unlink(missing_ok=True)


def _lock(handle: int) -> bool | None:
    """Lock what is open until it is closed or its process ends; None if nothing can be locked here.

    False if another holds it, or has removed it.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return os.fstat(handle).st_nlink > 0


def make_folder(folder: Path) -> None:
    """Make a folder, and those around it, unless it is there.

    Raises:
        OutputError: that cannot be done, or there is no right to write into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (OSError, ValueError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else failure
        what = "is no folder" if isinstance(failure, FileExistsError) else f"cannot be written: {reason}"
        raise OutputError(f"{folder} {what}") from failure


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder and hold it: a second holder, in this process or another, is refused. What killed writers left is removed.

    The folder itself is locked, by the system, which unlocks it when the process ends, however it ends.

    Raises:
        OutputError: the folder is held by another, or cannot be made or written.
    """
    make_folder(folder)
    try:
        handle = None if fcntl is None else os.open(folder, os.O_RDONLY)
    except OSError as failure:
        raise OutputError(f"{folder} cannot be locked: {failure.strerror}") from failure
    try:
        if handle is not None and _lock(handle) is False:
            raise OutputError(f"another run is writing {folder}: wait for it, stop it, or choose another folder")
        remove_leftovers(folder)
        yield
    finally:
        if handle is not None:
            os.close(handle)
