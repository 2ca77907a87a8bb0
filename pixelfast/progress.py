"""A progress bar over image rows, if one is wanted and tqdm is installed."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from .errors import InvalidInput


class RowProgress:
    """Context manager around sampling; `shown` says whether rows need to be reported at all."""

    def __init__(self, shown: bool, rows: int) -> None:
        self.shown = bool(shown)
        self._bar: Any = None
        if self.shown:
            try:
                from tqdm.auto import tqdm
            except ImportError as error:
                raise InvalidInput("progress=True needs tqdm: pip install tqdm, or pass on_row= instead") from error
            self._bar = tqdm(total=rows, unit="row", desc="sampling")

    def advance(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def __enter__(self) -> RowProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
