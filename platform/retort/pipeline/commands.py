"""The commands round the pipelines: `retort run`, `quickstart`, `serve`, `query`, `apply-delta`. Each parses, calls and prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from retort.arguments import parse
from retort.config import validated
from retort.errors import ConfigError, InputError
from retort.pipeline.plan import Plan, load_plan
from retort.pipeline.runner import PipelineRun, run_pipeline
from retort.runtime.connecting import connected
from retort.store import Artefact
from retort.terminal import TerminalProgress, artefact_table


class RunCommand(BaseModel):
    """Run a pipeline."""

    model_config = ConfigDict(extra="forbid")

    pipeline: str = Field(description="A YAML file, or the name of a pipeline that ships with the package.")
    store: str | None = Field(None, description="Where artefacts live. Default: $RETORT_STORE, else .retort")
    set: list[str] = Field(
        default_factory=list, description="Override a field: STEP.FIELD=VALUE; may be given several times."
    )
    report: str | None = Field(None, description="Write the systems' table of the pipeline's report to this JSON file.")


class QuickstartCommand(BaseModel):
    """The whole path, on the embedded sample or on your own data."""

    model_config = ConfigDict(extra="forbid")

    data: str | None = Field(
        None,
        description="Your data: a BEIR folder, MS MARCO TSV, JSONL, CSV, Parquet or text files. Default: the sample.",
    )
    serve: bool = Field(True, description="Serve the result with a search page until Ctrl-C.")
    report: str | None = Field(None, description="Write the systems' table to this JSON file.")
    host: str = Field("127.0.0.1", description="Address to serve on.")
    port: int = Field(8000, ge=1, le=65535, description="Port to serve on.")
    store: str | None = Field(None, description="Where artefacts live. Default: $RETORT_STORE, else .retort")
    seed: int = Field(13, ge=0, description="Seed of every random choice.")
    set: list[str] = Field(
        default_factory=list, description="Override a field: STEP.FIELD=VALUE; may be given several times."
    )


def run_plan(arguments: Sequence[str], console: Console) -> None:
    """`retort run`."""
    command = parse(RunCommand, arguments, "retort run", positional="pipeline")
    overrides = _overrides(command.set)
    if command.store:
        overrides["store"] = command.store
    plan = load_plan(command.pipeline, overrides)
    _check_report(plan, command.report)
    run = run_pipeline(plan, TerminalProgress(console))
    console.print(artefact_table(run.artefacts))
    _show_report(plan, run, console, command.report)


def run_quickstart(arguments: Sequence[str], console: Console) -> None:
    """`retort quickstart`."""
    command = parse(QuickstartCommand, arguments, "retort quickstart")
    from retort.serving.app import ServeConfig, check_port
    from retort.serving.app import run as serve

    overrides: dict[str, Any] = {"seed": command.seed, **_overrides(command.set)}
    if command.store:
        overrides["store"] = command.store
    if command.data:
        overrides["ingest.source"] = command.data
    plan = load_plan("quickstart", overrides)
    _check_report(plan, command.report)
    if command.serve:
        check_port(command.host, command.port)  # told now, and not after minutes of work
    with connected():
        run = run_pipeline(plan, TerminalProgress(console))
        report = _show_report(plan, run, console, command.report)
        assert report is not None, "the quickstart's plan has no report"
        index, encoder = served_pair(run, report)
        if not command.serve:
            console.print(f"Serve it: retort serve {index.name}", highlight=False)
            return
        settings = {
            "index": index.uri,
            "encoder": encoder.uri,
            "store": plan.store,
            "host": command.host,
            "port": command.port,
        }
        serve(validated(ServeConfig, settings, "retort quickstart"), console=console)


def served_pair(run: PipelineRun, report: dict[str, Any]) -> tuple[Artefact, Artefact]:
    """Index and query encoder that the report's verdict chose: the student's, or the base's."""
    index = run["$student-index" if report["verdict"]["serve"] == "student" else "$base-index"]
    embeddings = index.input("embeddings")
    return index, embeddings.input("encoder")


def _evaluations(plan: Plan) -> list[str]:
    """The steps that compare systems; an audit's report has no such table."""
    return [name for name, fields in plan.steps.items() if fields["job"] == "evaluate"]


def _show_report(plan: Plan, run: PipelineRun, console: Console, target: str | None) -> dict[str, Any] | None:
    """Print the last comparison's table and examples, and write its systems to `target`."""
    from retort.evaluation.tables import example_lines, report_table

    evaluations = _evaluations(plan)
    if not evaluations:
        return None
    artefact = run[f"${evaluations[-1]}"]
    report: dict[str, Any] = artefact.json("report.json")
    console.print()
    console.print(report_table(report))
    console.print()
    for line in example_lines(report):
        console.print(line)
    console.print(f"Report: {artefact.area.full('report.html')}", highlight=False)
    if target:
        Path(target).write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
        console.print(f"Written: {target}", highlight=False)
    return report


def _overrides(pairs: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        field, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair!r}: expected STEP.FIELD=VALUE, for example --set student.epochs=2.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {pair!r}: the value is not YAML: {' '.join(str(error).split())}.") from None
        values[field.strip().replace("-", "_") if "." not in field else field] = value
    return values


def _check_report(plan: Plan, target: str | None) -> None:
    """Whether there will be a report and it can be written is told now, and not after hours of work."""
    if target is None:
        return
    if not _evaluations(plan):
        raise ConfigError(f"--report {target}: this pipeline has no evaluate step, so there is no report to write.")
    path = Path(target)
    try:
        there = path.exists()
        path.open("a").close()
        if not there:
            path.unlink()
    except OSError as error:
        raise InputError(
            f"--report {target}: {error.strerror}. Name a file in a folder that you may write to."
        ) from None


class QueryCommand(BaseModel):
    """Ask a running endpoint."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(description="What to look for.")
    k: int = Field(10, ge=1, le=1000, description="Hits wanted.")
    url: str = Field("http://127.0.0.1:8000", description="The endpoint.")
    encoder: str | None = Field(None, description="Query encoder, where the endpoint has several.")


def run_serve(arguments: Sequence[str], console: Console) -> None:
    """`retort serve`."""
    from retort.serving.app import ServeConfig, run

    run(parse(ServeConfig, arguments, "retort serve", positional="index"), console, TerminalProgress(console))


def run_query(arguments: Sequence[str], console: Console) -> None:
    """`retort query`."""
    from retort.serving.client import Client

    command = parse(QueryCommand, arguments, "retort query", positional="query")
    options = {"encoder": command.encoder} if command.encoder else {}
    with Client(command.url) as client:
        for hit in client.search(command.query, k=command.k, **options).hits:
            title = f"{hit.title}: " if hit.title else ""
            console.print(
                f"{hit.score:8.4f}  {hit.passage_id}  {' '.join((title + hit.text).split())[:160]}",
                highlight=False,
                markup=False,
            )


class ApplyDeltaCommand(BaseModel):
    """Restore a tuned query encoder's folder from its base and its delta."""

    model_config = ConfigDict(extra="forbid")

    delta: str = Field(description="The delta.safetensors of a tuned encoder.")
    base: str = Field(description="The encoder that it was tuned from: a folder, or an artefact of the store.")
    out: str = Field(description="Folder to write; it may not hold anything yet.")
    store: str | None = Field(None, description="Where artefacts live. Default: $RETORT_STORE, else .retort")


def run_apply_delta(arguments: Sequence[str], console: Console) -> None:
    """`retort apply-delta`."""
    from retort.store import open_store
    from retort.tuning.delta import restore_encoder

    command = parse(ApplyDeltaCommand, arguments, "retort apply-delta", positional="delta")
    folder = Path(command.base)
    if not folder.is_dir():
        folder = open_store(command.store).get(command.base, "encoder").local()
    restore_encoder(folder, Path(command.delta), Path(command.out))
    console.print(f"Restored: {command.out}", highlight=False)
