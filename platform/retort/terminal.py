"""What the user sees: progress bars on a terminal, plain lines in a log, tables and one-line errors (rich)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table

from retort.progress import Task
from retort.store import Artefact, lineage
from retort.store.lineage import Ancestor

LOG_EVERY_S = 10.0


class _BarTask:
    def __init__(self, bars: Bars, identity: object) -> None:
        self._bars, self._identity = bars, identity

    def update(self, advance: float = 1, *, note: str | None = None) -> None:
        fields = {"note": note} if note is not None else {}
        self._bars.update(self._identity, advance=advance, **fields)  # type: ignore[arg-type]


class _LineTask:
    """For logs and pipes: a line every ten seconds instead of a bar."""

    def __init__(self, console: Console, description: str, total: float | None) -> None:
        self._console, self._description, self._total = console, description, total
        self._done, self._note, self._began, self._last = 0.0, "", time.monotonic(), time.monotonic()

    def update(self, advance: float = 1, *, note: str | None = None) -> None:
        self._done += advance
        self._note = note if note is not None else self._note
        if time.monotonic() - self._last >= LOG_EVERY_S:
            self._last = time.monotonic()
            self.line()

    def line(self) -> None:
        of = f" of {self._total:,.0f}" if self._total else ""
        took = time.monotonic() - self._began
        self._console.print(
            f"    {self._description}: {self._done:,.0f}{of}, {took:.0f} s {self._note}".rstrip(), highlight=False
        )


class TerminalProgress:
    """The Progress of the CLI."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Task]:
        """A bar that stays with its final time; in a log, a line every ten seconds and one at the end."""
        if not self._console.is_terminal:
            lines = _LineTask(self._console, description, total)
            yield lines
            lines.line()
            return
        bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        with bars:
            yield _BarTask(bars, bars.add_task(f"    {description}", total=total, note=""))

    def say(self, message: str) -> None:
        """One line."""
        self._console.print(message, highlight=False, markup=False)

    def can_ask(self) -> bool:
        """Whether both ends are a terminal."""
        return self._console.is_terminal and sys.stdin.isatty()

    def ask(self, question: str) -> bool:
        """Yes or no, no by default; the end of input is a no."""
        try:
            return self._console.input(f"{question} [y/N] ", markup=False).strip().lower() in ("y", "yes")
        except EOFError:
            return False


def artefact_table(artefacts: Mapping[str, Artefact]) -> Table:
    """What was made: output, name, key, rows, bytes, seconds."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("kind", "name", "key", "rows", "size", "wall s", "cpu s"):
        table.add_column(column, justify="left" if column in ("kind", "name", "key") else "right")
    for item in artefacts.values():
        manifest = item.manifest
        rows = f"{manifest.rows:,}" if manifest.rows is not None else ""
        table.add_row(
            item.kind,
            item.name,
            item.key[:12],
            rows,
            human_bytes(item.size_bytes),
            f"{manifest.wall_s:.1f}",
            f"{manifest.cpu_s:.1f}",
        )
    return table


def lineage_lines(artefact: Artefact) -> Iterator[str]:
    """The tree of an artefact's inputs, one line each."""

    def lines(node: Ancestor, depth: int) -> Iterator[str]:
        record = node.record
        what = f"{record.kind}/{record.name}"
        role = f"{node.role}: " if node.role else ""
        if node.artefact is None:
            yield f"{'  ' * depth}{role}{what} key {record.key[:12]} digest {record.digest[:12]} (no longer in this store)"
            return
        manifest = node.artefact.manifest
        licences = f", {'; '.join(manifest.licences)}" if manifest.licences else ""
        yield (
            f"{'  ' * depth}{role}{what} key {record.key[:12]} digest {record.digest[:12]}, by {manifest.step} v{manifest.step_version} "
            f"(retort {manifest.code_version}) {manifest.created}, {manifest.wall_s:.0f} s{licences}"
        )
        for child in node.inputs:
            yield from lines(child, depth + 1)

    yield from lines(lineage(artefact), 0)


def human_bytes(size: float) -> str:
    """1536 -> "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"
