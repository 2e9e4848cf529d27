"""The base of every job's config: one pydantic model per job, beside its step.

`identity()` is the part of a config that affects the result, and so enters the artefact's key; fields made by `plain`
(batch sizes, worker counts, progress) stay outside it, and fields marked `Ref` enter through the digest of the artefact
that they name. `validated` turns pydantic's errors into our one-line ConfigError.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from retort.errors import ConfigError
from retort.resources import Resources


@dataclass(frozen=True)
class Ref:
    """Marks a field that names an artefact of this kind: `corpus: Annotated[str, Ref("corpus")]`.

    A field of several is marked alike: `sets: Annotated[tuple[str, ...], Ref("queries")]`.
    """

    kind: str


def plain(default: Any = ..., **field: Any) -> Any:
    """A pydantic Field whose value does not affect the result."""
    extra = dict(field.pop("json_schema_extra", None) or {})
    return Field(default, json_schema_extra={**extra, "identity": False}, **field)


class JobConfig(BaseModel):
    """Fields that every job has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str | None = plain(
        None,
        description="Where artefacts live: a local path, s3:// or gs:// URI. Default: $RETORT_STORE, else .retort.",
    )
    name: str | None = plain(None, description="Name of the artefact made. Default: named after its inputs.")
    seed: int = Field(13, ge=0, description="Seed of every random choice.")
    resources: Resources = plain(default_factory=Resources, description="Workers, CPUs, GPUs and threads.")

    @classmethod
    def references(cls) -> dict[str, Ref]:
        """Fields that name artefacts, with their kind."""
        return {
            name: marker
            for name, field in cls.model_fields.items()
            for marker in field.metadata
            if isinstance(marker, Ref)
        }

    def named(self) -> dict[str, tuple[str, str]]:
        """Role -> (reference, kind) of each artefact named; those of a field of several are FIELD.0, FIELD.1, ..."""
        found: dict[str, tuple[str, str]] = {}
        for field, marker in self.references().items():
            value = getattr(self, field)
            if isinstance(value, tuple):
                found |= {f"{field}.{number}": (one, marker.kind) for number, one in enumerate(value)}
            elif value is not None:
                found[field] = (value, marker.kind)
        return found

    def identity(self) -> dict[str, Any]:
        """The result-affecting part of this config, models inside it too, as JSON-ready values."""
        return self.model_dump(mode="json", exclude={**_outside(self), **dict.fromkeys(self.references(), True)})

    @classmethod
    def validated(cls, values: Mapping[str, Any], where: str = "the config") -> Self:
        """Build the config, or raise ConfigError naming field, value and what was expected."""
        return validated(cls, values, where)


def _outside(value: Any) -> dict[Any, Any]:
    """What `model_dump` leaves out of a value, as its `exclude`: fields made by `plain`, of models inside it too."""
    places: dict[Any, Any] = {}
    if isinstance(value, BaseModel):
        fields = type(value).model_fields.items()
        places = {name: True if _is_plain(field) else _outside(getattr(value, name)) for name, field in fields}
    elif isinstance(value, Mapping):
        places = {key: _outside(one) for key, one in value.items()}
    elif isinstance(value, list | tuple):
        places = {place: _outside(one) for place, one in enumerate(value)}
    return {place: left_out for place, left_out in places.items() if left_out}


def _is_plain(field: FieldInfo) -> bool:
    return isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("identity") is False


Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """`model(**values)` with pydantic's errors told in one line each."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(f"{where}: {describe_validation(error, model)}") from None


def describe_validation(error: ValidationError, model: type[BaseModel]) -> str:
    """One sentence per wrong field: its path, the value given and what was expected."""
    sentences = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"]) or "(whole)"
        if item["type"] == "extra_forbidden":
            close = difflib.get_close_matches(str(item["loc"][-1]), list(model.model_fields), n=1)
            hint = (
                f" Did you mean {close[0]!r}?" if close else f" Known fields: {', '.join(sorted(model.model_fields))}."
            )
            sentences.append(f"unknown field {path!r}.{hint}")
        elif item["type"] == "missing":
            sentences.append(f"field {path!r} is missing.")
        else:
            sentences.append(f"field {path!r} is {item['input']!r}: {item['msg']}.")
    return " ".join(sentences)
