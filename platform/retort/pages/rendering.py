"""A room's Jinja template as a whole page. Every text from data is escaped; a name that the template lacks is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

__all__ = ["render"]


def render(room: str, template: str, filters: Mapping[str, Callable[..., Any]], **values: Any) -> str:
    """Fill `template` (a path below the package `room`); it finds the common style sheet as `style`.

    `filters` are functions that the template calls by these names.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(filters)
    text = resources.files(room).joinpath(template).read_text(encoding="utf-8")
    style = resources.files("retort.pages").joinpath("style.css").read_text(encoding="utf-8")
    return environment.from_string(text).render(style=style, **values)
