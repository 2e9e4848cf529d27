"""What an endpoint serves, and how that is changed: the release, and the one pointer per name that holds it.

    release.py      the model; making, saving and loading one; which query encoders fit an index
    promote.py      moving the pointer: promote, roll back, history
    masks.py        passages that a release never answers
    usage.py        which artefacts live replicas hold

`serving` opens a release; it is changed here, never there.
"""
