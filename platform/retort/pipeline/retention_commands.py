"""The commands that delete: `retort collect` and `retort purge`. Each parses, calls and prints."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from retort.arguments import parse
from retort.errors import BusyError
from retort.releases.deleting import read_ids
from retort.releases.purging import purge
from retort.releases.retention import carry_out, plan_collection
from retort.store import open_store
from retort.terminal import TerminalProgress, human_bytes


class CollectCommand(BaseModel):
    """Delete old versions of corpora, embeddings, indexes and masks that nothing serves or needs."""

    model_config = ConfigDict(extra="forbid")

    retention_days: float = Field(14.0, ge=0, description="Days that versions are kept, and can be rolled back to.")
    delete: bool = Field(False, description="Delete what is listed. Default: only say what would go.")
    store: str | None = Field(None, description="Where artefacts live. Default: $RETORT_STORE, else .retort")


class PurgeCommand(BaseModel):
    """Take named passages out of every version of every corpus, embedding and index, for good."""

    model_config = ConfigDict(extra="forbid")

    passages: list[str] = Field(
        min_length=1,
        description="Passage ids, or files of them (one a line, or JSON lines); may be given several times.",
    )
    wait_s: float = Field(30.0, ge=0, description="Seconds to wait for replicas to let go of what is deleted.")
    store: str | None = Field(None, description="Where artefacts live. Default: $RETORT_STORE, else .retort")


def run_collect(arguments: Sequence[str], console: Console) -> None:
    """`retort collect`."""
    command = parse(CollectCommand, arguments, "retort collect")
    store = open_store(command.store)
    found = plan_collection(store, command.retention_days)
    for item in found.artefacts:
        console.print(f"{item}  {human_bytes(item.size_bytes)}  {item.manifest.created}", highlight=False, markup=False)
    for name, version in found.versions:
        console.print(f"release {name} version {version}", highlight=False, markup=False)
    what = f"{len(found.artefacts)} artefacts ({human_bytes(found.size_bytes)}) and {len(found.versions)} versions of releases"
    if not command.delete:
        console.print(f"Would go: {what}. Delete them: retort collect --delete", highlight=False)
        return
    carry_out(store, found)
    console.print(f"Deleted: {what}.", highlight=False)


def run_purge(arguments: Sequence[str], console: Console) -> None:
    """`retort purge`."""
    command = parse(PurgeCommand, arguments, "retort purge")
    ids = read_ids(command.passages)
    done = purge(open_store(command.store), ids, wait_s=command.wait_s, progress=TerminalProgress(console))
    for name, version in done.releases.items():
        console.print(f"release {name} is at version {version}", highlight=False, markup=False)
    for text in done.deleted:
        console.print(f"deleted {text}", highlight=False, markup=False)
    gone = "" if done.unfinished else f"{len(ids)} passages are in no version any more; "
    console.print(
        f"{gone}{done.cache_files} files of this machine's node cache were deleted. "
        "Run the same command on the other machines that served or built them.",
        highlight=False,
    )
    if done.still_held:
        console.print("A replica still holds an old version in memory: restart it.", highlight=False)
    if done.may_quote:
        console.print("These came from what was purged and may quote it; look at them:", highlight=False)
    for text in done.may_quote:
        console.print(f"  {text}", highlight=False, markup=False)
    if done.unfinished:
        raise BusyError(
            f"The passages may still be in a version: {' '.join(done.unfinished)} Then run the same command again."
        )
