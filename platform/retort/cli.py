"""`retort ...`: one command per job, and the commands that go round them.

Parses, calls, prints; three lines of logic here are a sign that a library function is missing. Every job's options come
from its config model (pydantic-settings), a YAML file (`--config`) gives what the command line does not.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence

from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from retort import __version__
from retort.arguments import parse
from retort.errors import ConfigError, RetortError
from retort.pipeline.jobs import JOBS, job
from retort.resources import share_the_machine
from retort.store import KINDS, Artefact, open_store
from retort.terminal import TerminalProgress, artefact_table, lineage_lines

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 2 for anything the user can mend, 130 after Ctrl-C)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    console = Console(stderr=False, soft_wrap=True)
    if not given or given[0] in ("-h", "--help", "help"):
        _help(console)
        return 0
    if given[0] == "--version":
        console.print(f"retort {__version__}", highlight=False)
        return 0
    share_the_machine()
    name, rest = given[0], given[1:]
    try:
        _set_up_logging()
        if name in JOBS:
            run_job(name, rest, console)
        elif name in COMMANDS:
            COMMANDS[name][0](rest, console)
        else:
            raise ConfigError(f"There is no command {name!r}. Commands: {', '.join([*COMMANDS, *JOBS])}.")
    except RetortError as error:
        Console(stderr=True, soft_wrap=True).print(
            Text.assemble((f"retort {name}: ", "bold red"), str(error)), highlight=False
        )
        return error.exit_code
    except KeyboardInterrupt:
        Console(stderr=True).print(
            "Interrupted. What was complete is kept: the same command goes on from there.", highlight=False
        )
        return INTERRUPTED
    return 0


def _set_up_logging() -> None:
    level = os.environ.get("RETORT_LOG", "WARNING")
    levels = logging.getLevelNamesMapping()
    if level.upper() not in levels:
        raise ConfigError(f"RETORT_LOG is {level!r}. Levels: {', '.join(levels)}.")
    logging.basicConfig(level=level.upper(), format="%(levelname)s %(name)s: %(message)s")


def run_job(name: str, arguments: Sequence[str], console: Console | None = None) -> dict[str, Artefact]:
    """One job from its command line; prints what was made."""
    console = console or Console(soft_wrap=True)
    chosen = job(name)
    config = parse(chosen.config, arguments, f"retort {name}", chosen.positional)
    outcome = chosen.step(config, progress=TerminalProgress(console))
    made = {name: outcome} if isinstance(outcome, Artefact) else dict(outcome)
    console.print(artefact_table(made))
    return made


class _StoreOnly(BaseModel):
    store: str | None = None


class _Lineage(_StoreOnly):
    """An artefact's ancestry."""

    ref: str


class _List(_StoreOnly):
    """Artefacts in the store."""

    kind: str | None = None


def _ls(arguments: Sequence[str], console: Console) -> None:
    config = parse(_List, arguments, "retort ls", positional="kind")
    if config.kind not in (None, *KINDS):
        raise ConfigError(f"There is no kind of artefact {config.kind!r}. Kinds: {', '.join(KINDS)}.")
    store = open_store(config.store)
    found = store.list(config.kind)
    nothing = f"Store {store.uri} holds no {config.kind}." if config.kind else f"Store {store.uri} is empty."
    console.print(artefact_table({item.uri: item for item in found}) if found else nothing)


def _lineage(arguments: Sequence[str], console: Console) -> None:
    config = parse(_Lineage, arguments, "retort lineage", positional="ref")
    for line in lineage_lines(open_store(config.store).get(config.ref)):
        console.print(line, highlight=False, markup=False)


def _later(module: str, function: str) -> Callable[[Sequence[str], Console], None]:
    """A command whose module is imported when it runs, so that --help stays quick."""

    def run(arguments: Sequence[str], console: Console) -> None:
        getattr(importlib.import_module(f"retort.pipeline.{module}"), function)(arguments, console)

    return run


COMMANDS: dict[str, tuple[Callable[[Sequence[str], Console], None], str]] = {
    "quickstart": (
        _later("commands", "run_quickstart"),
        "The whole path on the embedded sample, or on your own data (--data FOLDER).",
    ),
    "run": (_later("commands", "run_plan"), "Run a pipeline: a YAML file, or one that ships with the package by name."),
    "serve": (_later("commands", "run_serve"), "Serve an index over HTTP, with a search page."),
    "query": (_later("commands", "run_query"), "Ask a running endpoint."),
    "apply-delta": (
        _later("commands", "run_apply_delta"),
        "Restore a tuned query encoder from its base and its delta.",
    ),
    "promote": (
        _later("release_commands", "run_promote"),
        "Let a release serve another index or other query encoders.",
    ),
    "delete": (_later("release_commands", "run_delete"), "Stop answering with named passages, at once."),
    "rollback": (_later("release_commands", "run_rollback"), "Serve again what a release held before."),
    "releases": (_later("release_commands", "run_releases"), "List the releases, or the history of one."),
    "keys": (_later("key_commands", "run_keys"), "API keys of the endpoint: make, list, revoke."),
    "collect": (_later("retention_commands", "run_collect"), "Delete old versions that nothing serves or needs."),
    "purge": (_later("retention_commands", "run_purge"), "Take named passages out of every version, for good."),
    "ls": (_ls, "List the artefacts in the store."),
    "lineage": (_lineage, "Show how an artefact came to be."),
}


def _help(console: Console) -> None:
    console.print(
        "retort: distil, tune, index and serve dense retrieval on Ray.\n\nUsage: retort COMMAND [OPTIONS]    retort COMMAND --help\n"
    )
    width = max(len(name) for name in [*COMMANDS, *JOBS]) + 2
    for title, rows in (
        ("Whole paths", {name: text for name, (_, text) in COMMANDS.items()}),
        ("Jobs", {name: item.summary for name, item in JOBS.items()}),
    ):
        console.print(f"{title}:", highlight=False)
        for name, text in rows.items():
            console.print(f"  {name:<{width}}{text}", highlight=False, markup=False)
        console.print()


if __name__ == "__main__":
    sys.exit(main())
