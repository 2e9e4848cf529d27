"""The store: immutable, fingerprinted artefacts, published by one last write.

files.py bytes under a root; manifest.py what an artefact is; draft.py making one; artefact.py reading one; store.py finding
them; pointers.py and locks.py the few things that change; lineage.py where they came from; policy.py what of that is
allowed; schemas.py their columns.
"""

from retort.store.artefact import Artefact, cache_root
from retort.store.draft import Draft
from retort.store.lineage import inherited, licences, lineage
from retort.store.policy import Policy, enforce
from retort.store.store import KINDS, Store, open_store

__all__ = [
    "KINDS",
    "Artefact",
    "Draft",
    "Policy",
    "Store",
    "cache_root",
    "enforce",
    "inherited",
    "licences",
    "lineage",
    "open_store",
]
