"""The sentence-transformers layout round a Hugging Face folder: what makes a body an encoder.

    modules.json                       body, pooling, normalisation
    1_Pooling/config.json              which pooling (two spellings, old and new)
    config_sentence_transformers.json  prompts "query" and "document" (here: prefixes), similarity
    sentence_bert_config.json          longest input
    retort.json                        ours: a query encoder's passage space, another limit for queries

Read by `dual_encoder.py`, and by `imports.py` before it takes a folder in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from retort.errors import ModelError
from retort.models.loading import read_json

__all__ = ["Layout", "read_layout", "read_prefixes", "write_layout"]

SIDES = ("query", "passage")
_PASSAGE_PROMPTS = ("document", "passage", "corpus")  # the names that sentence-transformers looks for, in its order
_NO_PREFIXES = {"query": "", "passage": ""}
_LEGACY_POOLING = "pooling_mode_"


@dataclass(frozen=True)
class Layout:
    """How token states become a vector, and what goes before and how much goes in."""

    pooling: str = "mean"
    normalise: bool = True
    prefixes: Mapping[str, str] = field(default_factory=lambda: dict(_NO_PREFIXES))
    max_tokens: Mapping[str, int] = field(default_factory=lambda: {"query": 512, "passage": 512})
    passage_space: str | None = None  # of a query encoder: its base's

    def replaced(
        self,
        *,
        pooling: str | None = None,
        normalise: bool | None = None,
        prefixes: Mapping[str, str] | None = None,
        max_tokens: int | Mapping[str, int] | None = None,
        passage_space: str | None = None,
    ) -> Layout:
        """A copy with what is given; a limit above the model's own is lowered to it."""
        limits = dict.fromkeys(SIDES, max_tokens) if isinstance(max_tokens, int) else dict(max_tokens or {})
        return replace(
            self,
            pooling=self.pooling if pooling is None else pooling,
            normalise=self.normalise if normalise is None else normalise,
            prefixes={**self.prefixes, **(prefixes or {})},
            max_tokens={side: min(limits.get(side, limit), limit) for side, limit in self.max_tokens.items()},
            passage_space=self.passage_space if passage_space is None else passage_space,
        )


def read_layout(folder: Path, model_limit: int) -> Layout:
    """Return what the folder says; a folder without modules.json is mean-pooled and normalised.

    Args:
        folder: a Hugging Face folder.
        model_limit: longest input of model and tokenizer, in tokens.

    Raises:
        ModelError: a module or pooling that is not supported here.
    """
    own = read_json(folder / "retort.json")
    said = read_json(folder / "sentence_bert_config.json").get("max_seq_length")
    limit = min(model_limit, int(said or model_limit))
    common: dict[str, Any] = {
        "prefixes": read_prefixes(folder),
        "max_tokens": {side: min(limit, int(own.get("max_tokens", {}).get(side, limit))) for side in SIDES},
        "passage_space": own.get("passage_space"),
    }
    modules = folder / "modules.json"
    if not modules.exists():
        return Layout(**common)
    pooling, normalise = "mean", False
    for module in _read_modules(modules):
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind == "Pooling":
            pooling = _read_pooling(folder / str(module.get("path", "")) / "config.json")
        elif kind == "Normalize":
            normalise = True
        elif kind != "Transformer":
            raise ModelError(
                f"{modules} has a module of type {module.get('type')!r}: expected Transformer, Pooling and Normalize "
                "only. Choose an encoder without further layers."
            )
    return Layout(pooling=pooling, normalise=normalise, **common)


def write_layout(folder: Path, layout: Layout, dimension: int) -> None:
    """Write the files that `read_layout` reads, in spellings that old and new sentence-transformers know."""
    kinds = ["Transformer", "Pooling"] + (["Normalize"] if layout.normalise else [])
    paths = ["", "1_Pooling", "2_Normalize"]
    _write(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(zip(kinds, paths, strict=False))
        ],
    )
    names = {"cls": "cls_token", "mean": "mean_tokens"}
    _write(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": dimension}
        | {f"{_LEGACY_POOLING}{written}": layout.pooling == name for name, written in names.items()}
        | {f"{_LEGACY_POOLING}max_tokens": False, f"{_LEGACY_POOLING}mean_sqrt_len_tokens": False},
    )
    _write(
        folder / "config_sentence_transformers.json",
        {
            "prompts": {"query": layout.prefixes["query"], "document": layout.prefixes["passage"]},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine" if layout.normalise else "dot",
        },
    )
    longest = max(layout.max_tokens.values())
    _write(folder / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False})
    own: dict[str, Any] = {}
    if layout.passage_space is not None:
        own["passage_space"] = layout.passage_space
    if len(set(layout.max_tokens.values())) > 1:
        own["max_tokens"] = dict(layout.max_tokens)
    (folder / "retort.json").unlink(missing_ok=True)
    if own:
        _write(folder / "retort.json", own)


def _read_modules(path: Path) -> list[dict[str, Any]]:
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON ({error}): restore the file or the model.") from None
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelError(f"{path} is no list of modules: restore the file or the model.")
    return modules


def _read_pooling(path: Path) -> str:
    """Return the pooling's name in the new spelling ("mean", "cls", ...)."""
    settings = read_json(path)
    if settings.get("include_prompt") is False:
        raise ModelError(
            f"{path} leaves the prompt's tokens out of the pooling, which is not supported: choose another encoder."
        )
    said = settings.get("pooling_mode")
    if said is None:
        legacy = {"cls_token": "cls", "mean_tokens": "mean"}
        active = [
            name.removeprefix(_LEGACY_POOLING)
            for name, on in settings.items()
            if name.startswith(_LEGACY_POOLING) and on
        ]
        said = "+".join(legacy.get(name, name) for name in active) or "mean"
    return "+".join(said) if isinstance(said, list) else str(said)


def read_prefixes(folder: Path) -> dict[str, str]:
    """Return the prefixes of "query" and "passage" that the folder names, "" where it names none."""
    settings = read_json(folder / "config_sentence_transformers.json")
    prompts = settings.get("prompts") or {}
    usual = prompts.get(settings.get("default_prompt_name"), "")
    passage = next((prompts[name] for name in _PASSAGE_PROMPTS if prompts.get(name)), usual)
    return {"query": str(prompts.get("query") or usual), "passage": str(passage)}


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
