"""The teacher: train a cross-encoder, look at it, then let it judge candidates, at the level of sentences and of words.

    train.py    TrainTeacherConfig, train_teacher(config) -> teacher artefact
    audit.py    AuditConfig, audit(config) -> report artefact: may it teach, and how far is it to be believed
    score.py    ScoreConfig, score(config) -> judgements artefact

Behind them: `losses.py`, `groups.py`, `prepare.py`, `optimising.py`, `trainer.py`, `loop.py` (Ray Train) for the first;
`audit_*.py`, `concordance.py`, `calibration.py`, `disagreements.py`, `trust.py` for the second; `scorer.py`, `reuse.py` for the
last two, run by `stages.py` (Ray Data). What scoring writes is read by `models/judgements.py`.
"""
