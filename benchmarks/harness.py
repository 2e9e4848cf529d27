"""What every benchmark shares: arguments, interleaved timing, rows with targets, the table, and the JSON.

    python benchmarks/NAME.py [--quick] [--json OUT]

A row is `{name, unit, ours, peer, peer_name, ratio, low, high, target, met}`. `ratio` above 1 means better than the peer;
low and high are its smallest and largest over interleaved repeats, or the interval of `ours` where there is no peer.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from retort.resources import share_the_machine

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "ray", "transformers", "sentence-transformers", "faiss-cpu", "numpy", "pyarrow")

share_the_machine()

console = Console(width=150, highlight=False)


@dataclass
class Row:
    """One figure, alone or beside a peer's."""

    name: str
    unit: str
    ours: float | None
    peer: float | None = None
    peer_name: str | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    target: str | None = None
    met: bool | None = None
    note: str = ""


@dataclass
class Report:
    """The rows of one run, and what else is worth keeping (`details`)."""

    mode: str
    rows: list[Row] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Take a row and print it at once: a long run shows what it has."""
        self.rows.append(row)
        met = "" if row.met is None else "  met" if row.met else "  NOT met"
        console.print(f"  {row.name}: {_number(row.ratio if row.ratio is not None else row.ours)} {row.unit}{met}")

    def finish(self, target: str | None) -> None:
        """Print the table; write the JSON."""
        table = Table(
            "row", "unit", "ours", "peer", "ratio", "low", "high", "target", "met", title=f"mode: {self.mode}"
        )
        for row in self.rows:
            peer = "" if row.peer is None else f"{_number(row.peer)} ({row.peer_name})"
            met = "" if row.met is None else "yes" if row.met else "NO"
            cells = (row.ours, row.ratio, row.low, row.high)
            ours, ratio, low, high = map(_number, cells)
            table.add_row(row.name, row.unit, ours, peer, ratio, low, high, row.target or "", met)
        console.print(table)
        for row in self.rows:
            if row.note:
                console.print(f"{row.name}: {row.note}")
        if target:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            Path(target).write_text(json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            console.print(f"Written: {target}")

    def as_json(self) -> dict[str, Any]:
        """What is written."""
        return {
            **circumstances(),
            "mode": self.mode,
            "rows": [asdict(row) for row in self.rows],
            "details": self.details,
        }


class Stages:
    """Each stage writes what it found to a file of its own, so that a run that was interrupted goes on; the report is put together from these."""

    def __init__(self, benchmark: str, args: argparse.Namespace) -> None:
        self._mode, self._only, self._again = "quick" if args.quick else "full", args.only, args.again
        self._folder = Path(args.store) / f"{benchmark}-{self._mode}"
        self.report = Report(self._mode)

    @staticmethod
    def options(parser: argparse.ArgumentParser) -> None:
        """For `arguments`."""
        parser.add_argument(
            "--only", nargs="+", default=[], metavar="STAGE", help="measure only these, and what is kept"
        )
        parser.add_argument("--again", nargs="+", default=[], metavar="STAGE", help="measure these anew")

    def run(self, name: str, work: Callable[[Report], None]) -> None:
        """Do the stage, or take what an earlier run found; left out where --only names others and nothing is kept."""
        kept = self._folder / f"{name}.json"
        if not kept.exists() or name in self._again:
            if self._only and name not in self._only:
                return
            console.print(f"[bold]{name}[/bold]")
            part = Report(self._mode)
            work(part)
            self._folder.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps({"rows": [asdict(row) for row in part.rows], "details": part.details}))
        found: dict[str, Any] = json.loads(kept.read_text())
        self.report.rows += [Row(**row) for row in found["rows"]]
        self.report.details |= found["details"]


def arguments(description: str, extra: Callable[[argparse.ArgumentParser], None] | None = None) -> argparse.Namespace:
    """`--quick` and `--json`, and where the benchmark's artefacts are kept between runs."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a smaller run with the same rows")
    parser.add_argument("--json", metavar="OUT", help="write the rows to this file")
    parser.add_argument("--store", default=str(ROOT / ".retort" / "benchmarks"), help="artefacts kept between runs")
    if extra is not None:
        extra(parser)
    return parser.parse_args()


def need(folder: Path) -> Path:
    """The folder, or a plain end: benchmarks are run on real data."""
    if not folder.is_dir():
        sys.exit(f"This benchmark needs {folder}, which is not there.")
    return folder


def interleaved(sides: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Run each side `repeats` times, in turn and with the order reversed each time; a side returns its rate."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats):
        names = list(sides) if repeat % 2 == 0 else list(reversed(sides))
        for name in names:
            found[name].append(sides[name]())
    return found


def ratio_row(
    name: str,
    unit: str,
    rates: Mapping[str, list[float]],
    peer: str,
    *,
    at_least: float | None,
    note: str = "",
    ours: str = "ours",
) -> Row:
    """A row of our rate over the peer's, run by run; `at_least` is its target, if it has one."""
    ratios = [mine / theirs for mine, theirs in zip(rates[ours], rates[peer], strict=True)]
    middle = statistics.median(ratios)
    return Row(
        name,
        unit,
        statistics.median(rates[ours]),
        statistics.median(rates[peer]),
        peer,
        middle,
        min(ratios),
        max(ratios),
        None if at_least is None else f">= {at_least:g}",
        None if at_least is None else middle >= at_least,
        note,
    )


class Clock:
    """A receiver of progress that notes when each part was done."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []  # (seconds, what was done)

    @contextmanager
    def task(self, description: str, total: float | None = None) -> Iterator[Clock]:
        yield self

    def update(self, advance: float = 1, *, note: str | None = None) -> None:
        self.marks.append((time.perf_counter(), advance))

    def say(self, message: str) -> None:
        pass

    @property
    def rate(self) -> float:
        """Done a second, from the end of the first part to the end of the last: start-up and the first batch are left out."""
        return sum(done for _, done in self.marks[1:]) / (self.marks[-1][0] - self.marks[0][0])


def timed(work: Callable[[], Any]) -> float:
    """Seconds of wall time."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def circumstances() -> dict[str, Any]:
    """Where, with what and when: what stands in every result."""
    return {
        "machine": machine(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def machine() -> dict[str, Any]:
    """What it ran on."""
    processor = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        processor = models[0] if models else processor
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "gpus": devices,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}"


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
