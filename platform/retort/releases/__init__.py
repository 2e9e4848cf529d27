"""What an endpoint serves, and how that is changed: the release, and the one pointer per name that holds it.

    release.py      the model; making, saving and loading one; which query encoders fit an index
    compose.py      the next release of a name: what is given changes, the rest stays
    promote.py      moving the pointer: promote, roll back, history
    reindex.py      the step `reindex`; settings.py, cost.py, validation.py, deleting.py are its parts
    retention.py    old versions: kept for a time, then collected; purging.py takes passages out
                    of all of them (holding.py says which hold them)
    masks.py        passages that a release never answers
    usage.py        which artefacts live replicas hold

`serving` opens a release; it is changed here, never there.
"""
