"""`retort keys make|list|revoke`: the API keys that an endpoint with `--auth keys` asks for."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from retort.arguments import parse
from retort.errors import ConfigError
from retort.serving.keys import KeyRecord, Scope, list_keys, make_key, revoke_key
from retort.store import open_store


class MakeKeyCommand(BaseModel):
    """Make an API key and show it, once."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="Whose it is: shown in lists and logs.")
    scope: list[Scope] = Field(
        ["search"],
        description="search (queries, vectors) or admin (metrics); may be given twice.",
    )
    rate: str | None = Field(None, description="Queries allowed, such as 600/minute. Default: the endpoint's own.")
    days: float | None = Field(None, gt=0, description="Days until it ends. Default: never.")
    store: str | None = Field(None, description="Where artefacts live. Default: $RETORT_STORE, else .retort")


class ListKeysCommand(BaseModel):
    """List the API keys."""

    model_config = ConfigDict(extra="forbid")

    store: str | None = Field(None, description="Where artefacts live. Default: $RETORT_STORE, else .retort")


class RevokeKeyCommand(BaseModel):
    """Revoke an API key; running endpoints refuse it some seconds later."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(description="Its id, or its name.")
    store: str | None = Field(None, description="Where artefacts live. Default: $RETORT_STORE, else .retort")


def run_keys(arguments: Sequence[str], console: Console) -> None:
    """`retort keys`."""
    actions = {"make": _make, "list": _list, "revoke": _revoke}
    action = arguments[0] if arguments else ""
    if action not in actions:
        raise ConfigError(f"retort keys {action}: expected one of {', '.join(actions)} (each knows --help).")
    actions[action](arguments[1:], console)


def _make(arguments: Sequence[str], console: Console) -> None:
    command = parse(MakeKeyCommand, arguments, "retort keys make", positional="name")
    key, record = make_key(open_store(command.store), command.name, command.scope, rate=command.rate, days=command.days)
    console.print(key, highlight=False, markup=False)
    console.print(
        f"Keep it: only its hash is stored. Scopes: {', '.join(record.scopes)}. Revoke: retort keys revoke {record.id}",
        highlight=False,
    )


def _list(arguments: Sequence[str], console: Console) -> None:
    command = parse(ListKeysCommand, arguments, "retort keys list")
    store = open_store(command.store)
    records = list_keys(store)
    for record in records:
        console.print(_line(record), highlight=False, markup=False)
    if not records:
        console.print(f"Store {store.uri} has no keys. Make one: retort keys make NAME", highlight=False)


def _revoke(arguments: Sequence[str], console: Console) -> None:
    command = parse(RevokeKeyCommand, arguments, "retort keys revoke", positional="key")
    record = revoke_key(open_store(command.store), command.key)
    console.print(f"Revoked: {_line(record)}", highlight=False, markup=False)


def _line(record: KeyRecord) -> str:
    until = f"  until {record.expires[:10]}" if record.expires else ""
    return f"{record.id}  {record.name}  {', '.join(record.scopes)}  {record.rate or 'rate of the endpoint'}  made {record.created[:10]}{until}"
