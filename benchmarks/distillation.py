"""Does distilling help, which level, and does the filter? The grid of systems on Debian's package descriptions.

    python benchmarks/distillation.py [--quick] [--minutes M] [--seeds N ...] [--systems NAME ...] [--labelled N] [--report-only] [--json OUT] [--store FOLDER]

`queries.train` teaches, `queries.dev` chooses, `queries.test` is reported. Rows: BM25; the base MiniLM; students that learn by
contrast alone, with the sentence level, with the word level, with both, with both and the dynamic or the static filter; and
the teacher re-ranking the best student's top 100.

Seeds are independent: each teaches its students and leaves what it found as
`benchmarks/results/distillation/seed-N.json` (`distillation_records.py`), a cell at a time. The report is made of whole records alone, so
the seeds may be run on different days and machines; `--report-only` trains nothing and needs no store. What a cell makes on its way
is artefacts: an interrupted one goes on in the same store, and `--minutes` stops beginning cells. From seed to
seed passes, through the first one's record, what its search found, and the places of BM25 and the base, which no seed changes. So the
first seed comes first. Two processes of one core each, `taskset -c 0` with
`--systems bm25 base both_filtered teacher both_static both` and `taskset -c 1` with the others, may make a seed together, once the first has
judged its first round: until then both would make the same. Seeds of one store share its teacher, and that teacher's judgements of the first
round; in a new store it is trained again, in the same way. Every record names the teacher.

The sizes (`distillation_plan.py`); what they cost stands in each record, and in the row `hours_left`:

1. A teacher first. Trained for 150 steps on 1,500 queries it does not lead its student (`retort quickstart`: student
   MRR@10 0.707, teacher re-ranking 0.705 on 2,000 test queries); these get 800 steps, a list of each of 6,400 queries once.
   A teacher reads 20,000 pairs to re-rank its seed's lists of 200 queries, the same for all seeds.
2. Students learn from 1,000 judged queries (9 mined candidates each) of which 250 keep their label: a team has a log of queries and
   the labels of a few days. The levels learn from the others by the teacher alone; contrast cannot, and sees its 250 four times as
   often. `--labelled 1000` labels all.
   The teacher, which learnt from 6,400 labelled lists of other queries, stands for one that is bought or downloaded.
3. Equal cost for every row: two rounds (mined by the base, then by the row's own student) of 100 steps of 16 queries with 3
   hard negatives, over which the rate falls once, the better of two checkpoints of a round by dev; a dev search of 3 trials x 20 steps, the row's own, in the first
   round of the first seed: 400 dev queries tell trials apart by two points of MRR@10, so more of them would buy little. The
   contrast-only row searches its temperature, from the default; the others search their weights
   too, from temperatures that the sentence level alone once found on dev (docs/distilling.md) and weights of 2. The rate is the
   same for all and not searched: of 20 steps the highest does best, and of 200 it does not.
4. Students read 64 tokens of a passage, in training as when they are measured and mined with, and so does the base that they
   start from and are compared with: about half of the passages are no longer, and what a package is stands in the first lines. Teachers read
   112 tokens of query and passage together.
5. The whole collection, 33,327 passages, is embedded once per cell, to be measured on all 5,294 test queries. The second round
   is mined in a quarter of it and the taught queries' own passages, which is enough for 6 hard negatives a query; so is every
   row's. All in int8.
6. In the first round a static threshold equals the dynamic one, so these two rows share that round's student.

Differences are paired over queries of seed-mean scores. `filter_precision` asks names and words, not the teacher
(`distillation_truth.py`).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from distillation_plan import FULL, QUICK, Plan
from distillation_records import SYSTEMS, read_records
from distillation_report import add_cost, add_results
from distillation_seeds import go_on
from distillation_tested import tested
from harness import RESULTS, Report, arguments

from retort.runtime.connecting import connected


def extra(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=70.0, help="start no cell after so many minutes (default 70)")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="go on with these seeds (default: all)")
    parser.add_argument("--systems", nargs="+", metavar="NAME", default=SYSTEMS, choices=SYSTEMS, help=f"make these only, of {', '.join(SYSTEMS)} (default: all)")  # fmt: skip
    parser.add_argument(
        "--labelled", type=int, metavar="N", help="labels that students see, another grid than the plan's"
    )
    parser.add_argument("--report-only", action="store_true", help="report what is recorded, train nothing")


def records_folder(args: argparse.Namespace) -> Path:
    """A full seed's record is kept in the project, that of a quick run or of another number of labels beside its artefacts."""
    if not args.quick and args.labelled is None:
        return RESULTS / "distillation"
    mode, labels = "quick" if args.quick else "full", "" if args.labelled is None else f"-{args.labelled}"
    return Path(args.store) / f"distillation-{mode}{labels}"


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan of the mode. SystemExit for more labels than there are taught queries."""
    plan = QUICK if args.quick else FULL
    if args.labelled is None:
        return plan
    if not 1 <= args.labelled <= plan.taught:
        raise SystemExit(f"--labelled {args.labelled}: from 1 to {plan.taught}, the queries that are taught.")
    return replace(plan, labelled=args.labelled)


def make_report(report: Report, plan: Plan, folder: Path) -> None:
    """All rows, from what is recorded."""
    tests = tested(plan)
    records = read_records(folder, plan, tests)
    add_cost(report, records, plan)
    add_results(report, records, tests, plan)


def main() -> None:
    args = arguments("Distillation: which levels and which filter help, on real data.", extra)
    plan = plan_of(args)
    unknown = set(args.seeds or ()) - set(plan.seeds)
    if unknown:
        raise SystemExit(f"The plan has no seed {', '.join(map(str, sorted(unknown)))}; it has {', '.join(map(str, plan.seeds))}.")  # fmt: skip
    folder = records_folder(args)
    if not args.report_only:
        with connected():  # once, not once per artefact
            go_on(plan, args.store, folder, args.seeds or plan.seeds, args.systems, args.minutes)
    report = Report("quick" if args.quick else "full")
    make_report(report, plan, folder)
    report.finish(args.json)


if __name__ == "__main__":
    main()
