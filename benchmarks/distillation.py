"""Does distilling help, which level, and does the filter? The grid of systems on Debian's package descriptions.

    python benchmarks/distillation.py [--quick] [--minutes M] [--json OUT] [--store FOLDER]

`queries.train` teaches, `queries.dev` chooses, `queries.test` is reported. Rows: BM25; the base MiniLM; students that learn by
contrast alone, with the sentence level, with the word level, with both, with both and the dynamic or the static filter; and
the teacher re-ranking the best student's top 100. Each row x seed is a cell made of artefacts: an interrupted run goes on, and
`--minutes` stops starting cells.

The plan (`distillation_plan.py`), made for 8 hours on two cores:

1. A teacher first. Trained for 150 steps on 1,500 queries it does not lead its student (`retort quickstart`: student
   MRR@10 0.707, teacher re-ranking 0.705 on 2,000 test queries); this one gets 1,200 steps on lists of 9,600 queries.
   It judges a pair once, whichever cells find it, and re-ranks the first seed's students' lists on 600 queries.
2. Students learn from 1,500 judged queries (16 mined candidates each), not from all 26,189: with few labels the teacher has
   something to add; where labels are plenty, contrast alone catches up and the question has no answer in a few hundred steps.
3. Equal cost for every row: two rounds (mined by the base, then by the cell's own student) of 48 steps of 32 queries with 4
   hard negatives; a dev search of 4 trials x 24 steps in the first round with the first seed, whose values hold for both
   rounds and all seeds. The contrast-only rows search rate and temperature, the others their weights too.
4. The collection is embedded twice per cell, to mine the second round and to be measured, for all systems in int8.
5. In the first round a static threshold equals the dynamic one, so these two rows share that round's student.

Differences are paired over queries of seed-mean scores. `filter_precision` asks names and words, not the teacher
(`distillation_truth.py`).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping

from distillation_data import Data
from distillation_grid import MEASURES, Grid, Scores
from distillation_plan import FULL, QUICK, ROWS
from distillation_truth import is_duplicate, is_sibling
from harness import Report, Row, arguments, console
from rich.table import Table

from retort.evaluation.assembly import query_facts
from retort.evaluation.findings import cut_slices, slice_rows
from retort.metrics.significance import bootstrap_interval, paired_bootstrap, seed_mean

BEST = next(recipe for recipe in ROWS if recipe.name == "both_filtered")
TEACHER_LEADS = 0.01
BySystem = dict[str, Scores]
"""System -> measure -> query -> value, the mean over seeds."""


def means(cells: Mapping[tuple[str, int], Scores], seeds: list[int]) -> BySystem:
    """Per system and query the mean over the seeds that every row has."""
    return {
        recipe.name: {measure: seed_mean([cells[recipe.name, seed][measure] for seed in seeds]) for measure in MEASURES}
        for recipe in ROWS
    }


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


def add_differences(report: Report, systems: BySystem, seeds: list[int]) -> None:
    """Rows both_filtered_minus_*."""
    ours = systems[BEST.name]["mrr@10"]
    for name, target in (
        ("contrastive", 0.02),
        ("sentence", 0.0),
        ("word", 0.0),
        ("both", None),
        ("both_static", None),
    ):
        found = paired_bootstrap(ours, systems[name]["mrr@10"])
        met = None if target is None else found.mean >= target if target else found.mean > 0
        aim = None if target is None else f">= {target:g}" if target else "> 0"
        report.add(
            Row(f"both_filtered_minus_{name}_mrr10", "MRR@10", found.mean, low=found.low, high=found.high, target=aim, met=met,
                note=f"p = {found.p:.4f}, {found.queries:,} test queries, {len(seeds)} seeds")
        )  # fmt: skip
        if name == "contrastive":
            report.add(Row("both_filtered_p", "p", found.p, target="<= 0.01", met=found.p <= 0.01))


def add_gap(report: Report, grid: Grid, systems: BySystem, seeds: list[int]) -> None:
    """Row gap_closed, and the teacher among the systems."""
    # Only one teacher was trained; the lists of the other seeds' students are nearly the same, more queries tell more.
    teacher = grid.teacher(BEST, seeds[0])
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
            note=f"{len(some)} test queries; below that the gap does not count and a better teacher comes first")
    )  # fmt: skip
    report.add(
        Row("gap_closed", "share", closed, target=">= 0.5", met=None if closed is None else closed >= 0.5,
            note=f"of the distance from contrast alone to the teacher, on the {len(some)} queries that it re-ranked")
    )  # fmt: skip


def add_filter(report: Report, grid: Grid, seeds: list[int]) -> None:
    """Row filter_precision: dropped negatives that are duplicates or siblings of the positive, beside the kept ones."""
    data = grid.data
    pairs = [pair for seed in seeds for pair in grid.filtered(BEST, seed)]
    ids = sorted({name for query, passage, _ in pairs for name in (query, passage)} & set(data.passages.ids))
    text = dict(zip(ids, data.passages.texts(ids), strict=True))
    counts = {kind: {True: 0, False: 0} for kind in ("duplicate", "sibling", "either")}
    total = {True: 0, False: 0}
    for query, passage, dropped in pairs:  # a query's id is its package's name, which is its positive's id too
        duplicate = is_duplicate((text[query], text[passage]), (data.synopses.get(query), data.synopses.get(passage)))
        sibling = is_sibling(query, passage)
        total[dropped] += 1
        for kind, holds in (("duplicate", duplicate), ("sibling", sibling), ("either", duplicate or sibling)):
            counts[kind][dropped] += holds
    share = {kind: {side: number[side] / total[side] if total[side] else None for side in (True, False)} for kind, number in counts.items()}  # fmt: skip
    ours, kept = share["either"][True], share["either"][False]
    report.add(
        Row("filter_precision", "share", ours, kept, "kept negatives", ours / kept if ours is not None and kept else None,
            note=f"{total[True]:,} dropped of {sum(total.values()):,} negatives; of the dropped {share['duplicate'][True] or 0:.3f} duplicates and "
            f"{share['sibling'][True] or 0:.3f} siblings by words and names (distillation_truth.py), of the kept {share['duplicate'][False] or 0:.3f} and {share['sibling'][False] or 0:.3f}")
    )  # fmt: skip
    report.details["filter"] = {"share": {kind: {str(side): value for side, value in by.items()} for kind, by in share.items()}, "negatives": total[True] + total[False], "dropped": total[True]}  # fmt: skip


def show_slices(report: Report, grid: Grid, systems: BySystem) -> None:
    """MRR@10 by passage length and section; the difference is both_filtered - contrastive, with bounds that hold together."""
    slices = cut_slices(query_facts(grid.data.test, grid.data.passages))
    named = {**systems, "student": systems[BEST.name], "base": systems["contrastive"]}
    found = [row for row in slice_rows(slices, named, samples=2000, seed=13) if row["by"] in ("length", "section")]
    table = Table("slice", "queries", *systems, f"{BEST.name} - contrastive", title="MRR@10 by slice")
    for row in found:
        gain = row["difference"]
        shown = f"{gain['mean']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})" if gain else ""
        values = [f"{row['systems'][name]:.3f}" for name in systems]
        table.add_row(f"{row['by']} {row['label']}", str(row["queries"]), *values, shown)
    console.print(table)
    report.details["slices"] = found


def add_cost(report: Report, grid: Grid, seconds: list[float], done: int) -> None:
    """How far the grid is and what the rest will take."""
    cells = len(grid.cells)
    console.print(f"{done} of {cells} cells are done.")
    students = [grid.rounds(recipe, seed)[-1].student for recipe, seed in grid.cells[:done]]
    if students:
        per_step = statistics.fmean(one.metrics["training_s"] / one.metrics["steps"] for one in students)
        report.add(Row("seconds_per_step", "s", per_step, note=f"{grid.plan.student['batch_queries']} queries a step"))
    fresh = [value for value in seconds if value > 60 or grid.plan.passages is not None]  # others were there already
    if fresh and done < cells:
        hours = statistics.fmean(fresh) * (cells - done) / 3600
        report.add(
            Row("hours_left", "h", hours, note=f"{cells - done} cells at {statistics.fmean(fresh) / 60:.1f} minutes")
        )


def extra(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=70.0, help="start no cell after so many minutes (default 70)")


def main() -> None:
    args = arguments("Distillation: which levels and which filter help, on real data.", extra)
    report = Report("quick" if args.quick else "full")
    grid = Grid(Data(args.store, QUICK if args.quick else FULL))
    cells, seconds = grid.run(args.minutes)
    add_cost(report, grid, seconds, len(cells))
    seeds = [seed for seed in grid.plan.seeds if all((recipe.name, seed) in cells for recipe in ROWS)]
    report.details["teacher"] = grid.data.teacher.metrics
    report.details["cells"] = {f"{name} {seed}": statistics.fmean(scores["mrr@10"].values()) for (name, seed), scores in cells.items()}  # fmt: skip
    if seeds:
        systems = means(cells, seeds)
        base = grid.scores_of(grid.data.vectors.input("encoder"), "base")
        show_systems(report, {"bm25": grid.bm25(), "base": base, **systems})
        add_differences(report, systems, seeds)
        add_gap(report, grid, systems, seeds)
        add_filter(report, grid, seeds)
        show_slices(report, grid, systems)
    else:
        console.print("No seed has all rows yet: run the same command again to go on. MRR@10 of the cells so far:")
        for name, value in report.details["cells"].items():
            console.print(f"  {name}: {value:.4f}")
    report.finish(args.json)


if __name__ == "__main__":
    main()
