"""The one import of FAISS: `from retort.indexing.faiss_library import faiss`.

The packages faiss-cpu and faiss-gpu (and its CUDA variants) put their files into the same folder `faiss`. With two of them
installed, whichever came last wins in part, and what follows is a crash far from its cause; so that is refused here.
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from retort.errors import RetortError

__all__ = ["faiss", "installed_faiss"]

_INSTALL = 'pip install "retort[cpu]", or "retort[gpu]" on a machine with an NVIDIA GPU'


def installed_faiss() -> list[str]:
    """Names of the installed distributions of FAISS, sorted: faiss-cpu, faiss-gpu, faiss-gpu-cu12 and the like."""
    names = set()
    for entry in dict.fromkeys(sys.path):
        # By file name first: reading the metadata of everything that is installed takes half a second.
        for folder in Path(entry or ".").glob("faiss*"):
            if folder.suffix in {".dist-info", ".egg-info"} and folder.is_dir():
                name = Distribution.at(folder).metadata["Name"] or folder.name.rsplit("-", 1)[0]
                names.add(name.lower().replace("_", "-"))
    return sorted(name for name in names if name.startswith(("faiss-cpu", "faiss-gpu")))


def _load() -> Any:
    found = installed_faiss()
    if len(found) > 1:
        raise RetortError(
            f"{' and '.join(found)} are both installed and overwrite each other's files. "
            f"Remove all of them (pip uninstall {' '.join(found)}), then install one: {_INSTALL}."
        )
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        if found:
            raise RetortError(
                f"{found[0]} is installed and cannot be imported: {error}. Install it again: {_INSTALL}."
            ) from None
        raise RetortError(f"FAISS is not installed, and indexing and search need it: {_INSTALL}.") from None


faiss: Any = _load()
