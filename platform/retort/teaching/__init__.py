"""The teacher: train a cross-encoder, then let it judge candidates, at the level of sentences and of words.

    train.py    TrainTeacherConfig, train_teacher(config) -> teacher artefact
    score.py    ScoreConfig, score(config) -> judgements artefact

Behind them: `losses.py`, `groups.py`, `prepare.py`, `optimising.py`, `trainer.py`, `loop.py` (Ray Train) for the first;
`scorer.py`, `reuse.py`, `stages.py` (Ray Data) for the second. What they write is read by `models/judgements.py`.
"""
