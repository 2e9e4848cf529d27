"""The report of `distillation.py`, from whole records alone: the table of systems, the rows with targets, the slices.

A system's score of a query is its mean over the seeds; differences are paired over queries. Only how long the rest will take looks
at records in the making, too.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from distillation_plan import BEST, ROWS, Plan
from distillation_records import MEASURES, SYSTEMS, TEACHER, Scores, SeedRecord
from distillation_tested import Tested
from harness import Report, Row, console
from rich.table import Table

from retort.evaluation.findings import cut_slices, slice_rows
from retort.metrics.significance import bootstrap_interval, paired_bootstrap, seed_mean

__all__ = ["add_cost", "add_results"]

TEACHER_LEADS = 0.01
COMPARED = (("contrastive", 0.02), ("sentence", 0.0), ("word", 0.0), ("both", None), ("both_static", None))
BySystem = dict[str, Scores]
"""System -> measure -> query -> value, the mean over seeds."""


def add_results(report: Report, records: Mapping[int, SeedRecord], tests: Tested, plan: Plan) -> None:
    """All rows that need whole records; where there is none, it is said what there is."""
    whole = [records[seed] for seed in plan.seeds if seed in records and records[seed].complete]
    cells = {f"{name} {seed}": statistics.fmean(record.scores(name, tests, plan)["mrr@10"].values()) for seed, record in records.items() for name in record.cells}  # fmt: skip
    report.details["cells"] = cells
    report.details["seeds"] = {str(record.seed): _of_seed(record) for record in whole}
    if not whole:
        console.print("No seed has all rows yet: run the same command again to go on. MRR@10 of what is recorded:")
        for name, value in cells.items():
            console.print(f"  {name}: {value:.4f}")
        return
    found = {name: {measure: seed_mean([record.scores(name, tests, plan)[measure] for record in whole]) for measure in MEASURES} for name in SYSTEMS}  # fmt: skip
    teacher = found.pop(TEACHER)
    show_systems(report, found)
    rows = {recipe.name: found[recipe.name] for recipe in ROWS}
    add_differences(report, rows, len(whole))
    add_gap(report, rows, teacher, len(whole))
    add_filter(report, whole)
    show_slices(report, rows, tests)


def _of_seed(record: SeedRecord) -> dict[str, object]:
    kept = record.model_dump(mode="json", include={"machine", "versions", "date", "search", "teacher", "teacher_metrics", "teacher_s"})  # fmt: skip
    return {**kept, "seconds": {name: cell.seconds for name, cell in record.cells.items()}}


def show_systems(report: Report, systems: Mapping[str, Scores], key: str = "systems") -> None:
    """The table of all systems with intervals, and the same in the details."""
    table = Table("system", "queries", *MEASURES, title="means over queries of seed-mean scores, 95 % intervals")
    for name, scores in systems.items():
        found = {measure: bootstrap_interval(scores[measure]) for measure in MEASURES}
        cells = [f"{one.mean:.4f} ({one.low:.4f}-{one.high:.4f})" for one in found.values()]
        table.add_row(name, f"{found['mrr@10'].queries:,}", *cells)
        report.details.setdefault(key, {})[name] = {
            measure: [one.mean, one.low, one.high] for measure, one in found.items()
        }
    console.print(table)


def add_differences(report: Report, systems: BySystem, seeds: int) -> None:
    """Rows both_filtered_minus_*."""
    ours = systems[BEST.name]["mrr@10"]
    for name, target in COMPARED:
        found = paired_bootstrap(ours, systems[name]["mrr@10"])
        met = None if target is None else found.mean >= target if target else found.mean > 0
        aim = None if target is None else f">= {target:g}" if target else "> 0"
        report.add(
            Row(f"both_filtered_minus_{name}_mrr10", "MRR@10", found.mean, low=found.low, high=found.high, target=aim, met=met,
                note=f"p = {found.p:.4f}, {found.queries:,} test queries, {seeds} seeds")
        )  # fmt: skip
        if name == "contrastive":
            report.add(Row("both_filtered_p", "p", found.p, target="<= 0.01", met=found.p <= 0.01))


def add_gap(report: Report, systems: BySystem, teacher: Scores, seeds: int) -> None:
    """Row gap_closed, and the teachers among the systems: the mean over the seeds' own, each on its own student's lists."""
    some = list(teacher["mrr@10"])
    few = {
        name: {measure: {query: values[query] for query in some} for measure, values in scores.items()}
        for name, scores in systems.items()
    }
    few[f"teacher on top 100 of {BEST.name}"] = teacher
    show_systems(report, few, "systems_on_reranked_queries")
    mrr = {name: statistics.fmean(scores["mrr@10"].values()) for name, scores in few.items()}
    lead = statistics.fmean(teacher["mrr@10"].values()) - mrr["contrastive"]
    counted = lead >= TEACHER_LEADS
    closed = (mrr[BEST.name] - mrr["contrastive"]) / lead if counted else None
    report.add(
        Row("teacher_minus_contrastive_mrr10", "MRR@10", lead, target=f">= {TEACHER_LEADS:g}", met=counted,
            note=f"{len(some)} test queries, {seeds} seeds; below that the gap does not count and a better teacher comes first")
    )  # fmt: skip
    report.add(
        Row("gap_closed", "share", closed, target=">= 0.5", met=None if closed is None else closed >= 0.5,
            note=f"of the distance from contrast alone to the teacher, on the {len(some)} queries that it re-ranked")
    )  # fmt: skip


def add_filter(report: Report, records: list[SeedRecord]) -> None:
    """Row filter_precision: dropped negatives that are duplicates or siblings of the positive, beside the kept ones."""
    counts: dict[str, dict[str, int]] = {"dropped": {}, "kept": {}}
    for record in records:
        assert record.filtered is not None, "a whole record"
        for side, numbers in record.filtered.model_dump().items():
            for kind, number in numbers.items():
                counts[side][kind] = counts[side].get(kind, 0) + number
    total = {side: numbers["total"] for side, numbers in counts.items()}
    share = {side: {kind: numbers[kind] / total[side] if total[side] else None for kind in ("duplicate", "sibling", "either")} for side, numbers in counts.items()}  # fmt: skip
    ours, kept = share["dropped"]["either"], share["kept"]["either"]
    report.add(
        Row("filter_precision", "share", ours, kept, "kept negatives", ours / kept if ours is not None and kept else None,
            note=f"{total['dropped']:,} dropped of {sum(total.values()):,} negatives; of the dropped {share['dropped']['duplicate'] or 0:.3f} duplicates and "
            f"{share['dropped']['sibling'] or 0:.3f} siblings by words and names (distillation_truth.py), of the kept {share['kept']['duplicate'] or 0:.3f} and {share['kept']['sibling'] or 0:.3f}")
    )  # fmt: skip
    report.details["filter"] = {"share": share, "counts": counts}


def show_slices(report: Report, systems: BySystem, tests: Tested) -> None:
    """MRR@10 by passage length and section; the difference is both_filtered - contrastive, with bounds that hold together."""
    named = {**systems, "student": systems[BEST.name], "base": systems["contrastive"]}
    found = slice_rows(cut_slices(tests.facts), named, samples=2000, seed=13)
    table = Table("slice", "queries", *systems, f"{BEST.name} - contrastive", title="MRR@10 by slice")
    for row in found:
        gain = row["difference"]
        shown = f"{gain['mean']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})" if gain else ""
        values = [f"{row['systems'][name]:.3f}" for name in systems]
        table.add_row(f"{row['by']} {row['label']}", str(row["queries"]), *values, shown)
    console.print(table)
    report.details["slices"] = found


def add_cost(report: Report, records: Mapping[int, SeedRecord], plan: Plan) -> None:
    """How far the grid is and what the rest will take, by what was measured so far."""
    missing = [(seed, name) for seed in plan.seeds for name in SYSTEMS if seed not in records or name not in records[seed].cells]  # fmt: skip
    total = len(plan.seeds) * len(SYSTEMS)
    console.print(f"{total - len(missing)} of {total} cells are recorded.")
    cells = [cell for record in records.values() for cell in record.cells.values()]
    steps = [cell.step_s for cell in cells if cell.step_s is not None]
    if steps:
        note = f"{plan.student['batch_queries']} queries a step"
        report.add(Row("seconds_per_step", "s", statistics.fmean(steps), note=note))
    rows = [cell.seconds for cell in cells if cell.step_s is not None]
    if rows and missing:
        teachers = len(plan.seeds) - len(records)
        each = statistics.fmean(record.teacher_s for record in records.values())
        needed = [name for _, name in missing if name not in ("bm25", "base")]
        hours = (statistics.fmean(rows) * len(needed) + each * teachers) / 3600
        report.add(Row("hours_left", "h", hours, note=f"{len(missing)} cells, {statistics.fmean(rows) / 60:.1f} minutes a student, and {teachers} teachers"))  # fmt: skip
