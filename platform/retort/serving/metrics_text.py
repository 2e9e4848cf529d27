"""Prometheus texts of several replicas as one: each metric's lines must stand together, its HELP and TYPE once."""

from __future__ import annotations

from collections.abc import Iterable


def merged(texts: Iterable[str]) -> str:
    """One text of all samples. Samples of different replicas differ by their `replica` label."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for text in texts:
        family = ""
        for line in text.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                family = line.split(" ", 3)[2]
                known = heads.setdefault(family, [])
                if line not in known:
                    known.append(line)
            elif line and not line.startswith("#"):
                samples.setdefault(family, []).append(line)
    lines = [line for family, head in heads.items() for line in [*head, *samples.get(family, [])]]
    return "\n".join(lines) + "\n"
