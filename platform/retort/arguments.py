"""A command line from a pydantic model (pydantic-settings), with a YAML file below it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

from retort.config import validated
from retort.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], arguments: Sequence[str], program: str, positional: str | None = None) -> Model:
    """Options of the command line over those of the YAML file named by --config; ConfigError names what is wrong."""
    given = list(arguments)
    values: dict[str, Any] = {}
    if "--config" in given:
        at = given.index("--config")
        if at + 1 >= len(given):
            raise ConfigError("--config needs the path of a YAML file.")
        values = _read_yaml(given[at + 1])
        del given[at : at + 2]
    if positional and given and not given[0].startswith("-"):
        values[positional] = given.pop(0)
    settings: Any = type(
        model.__name__,
        (model, BaseSettings),
        {
            "__doc__": model.__doc__,
            "model_config": SettingsConfigDict(
                cli_prog_name=program,
                cli_kebab_case=True,
                cli_implicit_flags=True,
                cli_avoid_json=True,
                cli_hide_none_type=True,
            ),
        },
    )
    source: CliSettingsSource[Any] = CliSettingsSource(settings, cli_parse_args=given)
    _merge(values, source())
    return validated(model, values, "the options")  # of which program, whoever shows it says


def _merge(target: dict[str, Any], extra: dict[str, Any]) -> None:
    for key, value in extra.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"--config {path} holds {type(values).__name__}; expected fields and values.")
    return values
