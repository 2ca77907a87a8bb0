"""What a check has found so far, as one JSON file and one Markdown file: written anew whenever something is added.

A file is written beside its name and then renamed: whoever reads it sees the one before or this one. Standard library only.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gpu.process import Outcome, Part, Record
from speed.texts import markdown_table

HIDDEN = ("kind", "id")
"""Keys that are for programs."""
LONGEST = 300
"""Letters of a cell of a table."""


class Summary:
    """The findings of all parts, in the order of the plan.

    Args:
        out: the folder.
        plan: all parts, those that have not begun included.
        options: what was asked for.
    """

    def __init__(self, out: Path, plan: Sequence[Part], options: dict[str, Any]) -> None:
        self.out, self.options, self._lock, self._began = out, options, threading.Lock(), time.monotonic()
        self.date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        self.parts: dict[str, dict[str, Any]] = {
            part.name: {
                "name": part.name, "status": "not begun", "reason": "", "seconds": None, "limit": part.limit, "records": [],
            }
            for part in plan
        }
        self.write()

    def begin(self, part: Part) -> None:
        self._change(part, status="running")

    def add(self, part: Part, record: Record) -> None:
        """Add a record; one with an "id" takes the place of an earlier one with the same."""
        with self._lock:
            records: list[Record] = self.parts[part.name]["records"]
            key = record.get("id")
            at = next((i for i, known in enumerate(records) if key is not None and known.get("id") == key), None)
            if at is None:
                records.append(record)
            else:
                records[at] = record
        self.write()

    def end(self, part: Part, outcome: Outcome) -> None:
        self._change(part, status=outcome.status, reason=outcome.reason, seconds=round(outcome.seconds, 1))

    def _change(self, part: Part, **changes: Any) -> None:
        with self._lock:
            self.parts[part.name] |= changes
        self.write()

    def lacks(self, part: str, name: str) -> bool:
        """Whether a part said that there is no such thing; one that never came to it did not."""
        records = self.parts[part]["records"] if part in self.parts else []
        return any(record.get("name") == name and record.get("value") is None for record in records)

    @property
    def failed(self) -> list[str]:
        """Parts that neither went well nor were left out."""
        return [name for name, part in self.parts.items() if part["status"] not in ("ok", "skipped")]

    def write(self) -> None:
        with self._lock:
            took = round(time.monotonic() - self._began, 1)
            parts = list(self.parts.values())
            whole = {"schema": 1, "date": self.date, "seconds": took, "options": self.options, "parts": parts}
            _replace(self.out / "gpu_check.json", json.dumps(whole, indent=1) + "\n")
            _replace(self.out / "gpu_check.md", markdown(whole))


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def markdown(whole: dict[str, Any]) -> str:
    """The report: a line for each part, then what each found."""
    lines = ["# GPU check", "", f"{whole['date']}, {whole['seconds']:.0f} s", "", *table(_overview(whole["parts"])), ""]
    for part in whole["parts"]:
        kinds = dict.fromkeys(record["kind"] for record in part["records"])
        for kind in kinds:
            records = [record for record in part["records"] if record["kind"] == kind]
            if kind == "run":
                continue
            if kind == "test":
                records = _tests(records)
            lines += [f"## {part['name']}", "", *table(records), ""]
    return "\n".join(lines).rstrip() + "\n"


def _overview(parts: Iterable[dict[str, Any]]) -> list[Record]:
    titles = {"part": "name", "status": "status", "took, s": "seconds", "at most, s": "limit", "reason": "reason"}
    return [{title: part[name] for title, name in titles.items()} for part in parts]


def _tests(records: Sequence[Record]) -> list[Record]:
    """How many parts ended in which way, and those that did not end well."""
    outcomes: dict[str, int] = {}
    for record in records:
        outcomes[record["outcome"]] = outcomes.get(record["outcome"], 0) + 1
    counts: list[Record] = [{"name": f"{count} tests", "outcome": outcome} for outcome, count in outcomes.items()]
    return counts + [record for record in records if record["outcome"] != "passed"]


def table(records: Sequence[Record]) -> list[str]:
    """Records as a table of Markdown; a column for each key that any has."""
    keys = [key for key in dict.fromkeys(key for record in records for key in record) if key not in HIDDEN]
    return markdown_table([keys, *([_text(record.get(key)) for key in keys] for record in records)])


def _text(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else "... " + text[-LONGEST:]
