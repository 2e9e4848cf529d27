"""The distillation step: a dual encoder learns from labels and from a teacher's judgements, of sentences and of words.

    distil(config) -> encoder     sentence-transformers layout, with a model card

The work is done by `prepare.py` (what is learnt from), `trainer.py` (steps), `loop.py` (Ray Train) and `result.py` (what is published). A killed run goes on
from its last checkpoint in the draft's scratch folder; the best checkpoint on a small dev pool becomes the encoder.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from retort.corpus.lookup import Passages
from retort.corpus.queries import QuerySet
from retort.distillation.checks import check_bound, check_cut_alike, words_seen_share
from retort.distillation.config import DistilConfig
from retort.distillation.course import Course, State
from retort.distillation.dev_pool import DevPool
from retort.distillation.filtering import FalseNegativeFilter, false_negative_filter
from retort.distillation.neighbours import stored_vectors
from retort.distillation.prepare import Coverage, prepare, prepare_dev
from retort.distillation.result import Trained, publish_student, teacher_of
from retort.distillation.student import initial_student
from retort.distillation.training_set import TrainingSet
from retort.errors import ConfigError, IncompatibleError, InputError, NotFoundError, StorageError
from retort.models.dual_encoder import DualEncoder
from retort.models.imports import encoder_artefact
from retort.models.judgements import Judgements
from retort.progress import QUIET, Progress
from retort.store import Artefact, Draft, cache_root, enforce, open_store
from retort.teaching.audit_gate import require_passed
from retort.teaching.optimising import freeze
from retort.teaching.trainer import NotFiniteError

__all__ = ["DistilConfig", "distil"]

log = logging.getLogger(__name__)

COSINE_TEMPERATURE = 0.05
LITTLE_SEEN = 0.75
"""Share of the teacher's words below which it is said that the student reads little of them."""


REFERENCES = (("base", "encoder"), ("start", "encoder"), ("corpus", "corpus"), ("queries", "queries"), ("judgements", "judgements"),
              ("dev_queries", "queries"), ("dev_candidates", "candidates"), ("embeddings", "embeddings"), ("teacher_audit", "report"))  # fmt: skip


def distil(config: DistilConfig, progress: Progress | None = None) -> Artefact:
    """Distil a student; return the encoder artefact.

    Its metrics hold `dev_mrr10_base`, `dev_mrr10_student`, `better_than_base` (None without dev queries) and
    `passage_space`. Training's curve and TensorBoard files stay in `<store>/logs/encoder/<key>`.

    Raises:
        NotFoundError: an input is not in the store.
        IncompatibleError: the judgements, candidates or embeddings are of another corpus or other queries.
        InputError: nothing to learn from, fewer hard negatives than asked for, maps of words that the student does not read,
            a start that cuts texts otherwise than the base, or the teacher failed its audit.
        PolicyError: an input brings a licence or personal data that the policy forbids.
        ModelError: the base cannot be trained so (layers, tokenizer).
        NotFiniteError: the loss became infinite or not a number; the last checkpoint is kept.
    """
    progress = progress or QUIET
    store = open_store(config.store)
    inputs: dict[str, Artefact] = {}
    for role, kind in REFERENCES:
        reference = getattr(config, role)
        if reference is not None:
            inputs[role] = encoder_artefact(reference, store) if kind == "encoder" else store.get(reference, kind)
    check_bound(inputs)
    if "teacher_audit" in inputs:
        require_passed(inputs["teacher_audit"], *teacher_of(inputs["judgements"]))
    enforce(config.policy, inputs)
    name = config.name or f"{inputs['corpus'].name}-student"[:100]
    draft = store.draft("encoder", name, step="distil", inputs=inputs, config=config.identity())
    done = draft.published
    if done is not None:
        progress.say(f"Encoder {done.name} is already made.")
        return done
    with draft:
        return draft.published or _distil(config, draft, inputs, progress)


def _distil(config: DistilConfig, draft: Draft, inputs: Mapping[str, Artefact], progress: Progress) -> Artefact:
    """Prepare, train and publish."""
    start = inputs.get("start", inputs["base"])
    limits = {"query": config.max_query_tokens, "passage": config.max_passage_tokens}
    student = initial_student(start.local(), layers=config.layers, precision=config.precision)
    freeze(student.model, config.frozen)  # a wrong name is told now and not by a worker
    reader = DualEncoder.load(inputs["base"].local(), precision=config.precision, max_tokens=limits)
    check_cut_alike(reader, student)
    data, dev, coverage, filtered = _training_data(config, draft, inputs, reader, progress)
    course = _course(config, data, student)
    settings = _loop_settings(config, draft, inputs)
    searched = None
    if config.search.trials:
        course, searched = _searched(config, settings, course, draft, dev, progress)
    progress.say(
        f"Distilling from {coverage.labelled} labelled and {coverage.unlabelled} unlabelled queries: {course.steps} steps of "
        f"{course.batch_queries} queries; {coverage.dropped_negatives} candidates dropped as false negatives."
    )
    _say_what_is_short(config, coverage, progress)
    with tempfile.TemporaryDirectory(prefix="retort-") as folder:
        checkpoint = _train(
            config, draft, {**settings, "course": asdict(course)}, Path(folder) / "checkpoint", progress
        )
        state = _final_state(checkpoint, course, draft.scratch())
        student.model.load_state_dict(load_file(checkpoint / "best.safetensors"))
    return publish_student(
        config, draft, inputs, Trained(student, reader, state, course, coverage, filtered, dev, searched), progress
    )


def _final_state(checkpoint: Path, course: Course, scratch: str) -> dict[str, Any]:
    """The state of the last checkpoint; StorageError where the run ended before its end without a word."""
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    if not State(**state).over(course):
        raise StorageError(
            f"Training ended at step {state['step']} of {course.steps} without saying why. Its checkpoints are kept in {scratch}; "
            "run the same command again to go on from the last one."
        )
    return state


def _say_what_is_short(config: DistilConfig, coverage: Coverage, progress: Progress) -> None:
    judged = coverage.labelled + coverage.unlabelled - coverage.without_judgements
    if coverage.short_of_negatives:
        progress.say(
            f"{coverage.short_of_negatives} of {judged} judged queries have fewer than the {config.negatives} hard negatives asked for; they take what they have."
        )
    if coverage.words_seen_share is not None and coverage.words_seen_share < LITTLE_SEEN:
        progress.say(
            f"The student reads {coverage.words_seen_share:.0%} of the passage words that the teacher's maps are about; raise max_passage_tokens to learn from more."
        )


def _training_data(
    config: DistilConfig, draft: Draft, inputs: Mapping[str, Artefact], reader: DualEncoder, progress: Progress
) -> tuple[TrainingSet, DevPool | None, Coverage, FalseNegativeFilter]:
    """Make training set and dev pool and write them where the workers find them."""
    from retort.distillation.loop import DATA_FOLDER

    queries, passages = QuerySet.open(inputs["queries"]), Passages.open(inputs["corpus"])
    judgements = Judgements.open(inputs["judgements"])
    filtered = false_negative_filter(
        judgements, queries, config.filter, round_number=config.round, earlier=_earlier_thresholds(inputs, progress)
    )
    with progress.task("reading texts for training"):
        data, coverage = prepare(
            queries=queries,
            passages=passages,
            judgements=judgements,
            encoder=reader,
            false_negatives=filtered,
            negatives=config.negatives,
            use_unlabelled=config.use_unlabelled,
            use_unjudged=config.use_unjudged,
            words=config.word_weight > 0,
            passage_vectors=stored_vectors(inputs["embeddings"], reader.dimension) if "embeddings" in inputs else None,
            similar=config.similar > 1,
        )
        coverage.words_seen_share = words_seen_share(data, judgements, config.max_passage_tokens)
        dev = None
        if "dev_queries" in inputs:
            dev = prepare_dev(
                queries=QuerySet.open(inputs["dev_queries"]),
                passages=passages,
                candidates=inputs.get("dev_candidates"),
                encoder=reader,
                most_queries=config.dev_pool_queries,
                pool_size=config.dev_pool_passages,
                seed=config.seed,
            )
        with tempfile.TemporaryDirectory(prefix="retort-") as folder:
            data.save(Path(folder))
            if dev is not None:
                dev.save(Path(folder))
            for path in sorted(Path(folder).iterdir()):
                draft.put_file(f"{DATA_FOLDER}/{path.name}", path)
    return data, dev, coverage, filtered


def _earlier_thresholds(inputs: Mapping[str, Artefact], progress: Progress) -> list[dict[str, Any]]:
    """The filter's thresholds of the rounds before, which the student of the last one recorded; none of another teacher."""
    audit = inputs["start"].metrics.get("filter") if "start" in inputs else None
    if not audit or audit["threshold"] is None:
        return []
    if not _same_teacher(inputs["start"], inputs["judgements"]):
        progress.say(
            f"The filter's threshold starts anew: nothing says that {inputs['start'].name} learnt from the teacher of these judgements, "
            f"and logits of two teachers cannot be compared."
        )
        return []
    # Students that were made before recorded their own round's alone.
    return audit.get("thresholds") or [{"round": audit["round_number"], "threshold": audit["threshold"]}]


def _same_teacher(start: Artefact, judgements: Artefact) -> bool:
    """Whether the start learnt from the teacher behind the judgements; not where that is not on record."""
    try:
        return teacher_of(start.input("judgements"))[0] == teacher_of(judgements)[0]
    except (NotFoundError, IncompatibleError):
        return False


def _loop_settings(config: DistilConfig, draft: Draft, inputs: Mapping[str, Artefact]) -> dict[str, Any]:
    """What `loop.teach_student` is told, but for the course."""
    return {
        "start": inputs.get("start", inputs["base"]),
        "layers": config.layers,
        "frozen": list(config.frozen),
        "dropout": config.dropout,
        "area": draft.area,
        "judgements": inputs["judgements"] if config.word_weight > 0 else None,
        "checkpoint_steps": config.checkpoint_steps,
        "checkpoint_minutes": config.checkpoint_minutes,
    }


def _searched(
    config: DistilConfig,
    settings: Mapping[str, Any],
    course: Course,
    draft: Draft,
    dev: DevPool | None,
    progress: Progress,
) -> tuple[Course, dict[str, Any]]:
    """The course with the values that the search found, and what it tried."""
    from retort.distillation.sweep import search  # Ray: only where work is done

    if dev is None:
        raise InputError(
            "search.trials are asked for, but not one of the dev queries has a passage labelled relevant to judge trials by. Give labelled dev_queries."
        )
    found = search(config.search, settings, course, config.resources, draft, progress, config.max_failures)
    values = ", ".join(f"{name} {value:.4g}" for name, value in found["values"].items())
    progress.say(f"Trial {found['trial']} of {len(found['trials'])} is the best on the dev pool: {values}.")
    return replace(course, **found["values"]), found


def _train(config: DistilConfig, draft: Draft, settings: Mapping[str, Any], into: Path, progress: Progress) -> Path:
    """Run the loop; return the folder of its last checkpoint."""
    from retort.distillation.loop import teach_student  # Ray: only where work is done
    from retort.distillation.records import Records
    from retort.runtime.loop import run_training

    logs = draft.store_area.root if draft.store_area.is_local else cache_root()
    with (
        progress.task("distilling", settings["course"]["steps"]) as task,
        Records(logs / "logs" / "encoder" / draft.key[:16], task) as records,
    ):
        try:
            outcome = run_training(
                teach_student,
                settings,
                config.resources,
                scratch=draft.scratch(),
                run_name="distil",
                into=into,
                on_report=records,
                max_failures=config.max_failures,
            )
        except NotFiniteError as error:
            raise NotFiniteError(
                f"{error} The last good checkpoint is kept in {draft.scratch()}. Lower learning_rate, or look at those texts."
            ) from None
    if outcome.checkpoint is None:
        raise StorageError(f"Training ended without a checkpoint in {draft.scratch()}; run the same command again.")
    return outcome.checkpoint


def _course(config: DistilConfig, data: TrainingSet, student: DualEncoder) -> Course:
    """Turn the config into the numbers of this run."""
    steps = max(1, math.ceil(config.epochs * len(data) / config.batch_queries))
    if config.max_steps is not None:
        steps = min(steps, config.max_steps)
    temperature = config.temperature or (COSINE_TEMPERATURE if student.normalise else 1.0)
    if config.negatives == 0 and config.pool == "own":
        raise ConfigError(
            "negatives is 0 and pool is 'own', so that a query has nothing to be compared with. Raise negatives, or widen the pool."
        )
    return Course(
        steps=steps,
        batch_queries=config.batch_queries,
        negatives=config.negatives,
        pool=config.pool,
        similar=config.similar,
        contrastive_weight=config.contrastive_weight,
        sentence_weight=config.sentence_weight,
        word_weight=config.word_weight,
        sentence_loss=config.sentence_loss,
        temperature=temperature,
        student_temperature=config.student_temperature or temperature,
        teacher_temperature=config.teacher_temperature,
        word_temperature=config.word_temperature,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_share=config.warmup_share,
        clip_norm=config.clip_norm,
        round=config.round if config.rounds > 1 else 0,
        rounds=config.rounds,
        evaluate_every=config.evaluate_every or max(1, math.ceil(steps / 2)),
        patience=config.patience,
        seed=config.seed,
        chunk_tokens=config.chunk_tokens,
        forward_tokens=config.forward_tokens,
        precision=config.precision,
    )
