"""report.json in the terminal: the table of systems and the example queries, for rich."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from retort.evaluation import wording


def report_table(report: dict[str, Any]) -> Table:
    """The systems side by side; the served one is marked, the caption says how relevance was judged and what the
    verdict is."""
    served = (report.get("verdict") or {}).get("serve")
    table = Table(
        title=f"{report['queries']['count']:,} test queries, {report['corpus']['passages']:,} passages",
        title_justify="left",
        box=box.SIMPLE_HEAD,  # narrow enough for 80 columns
    )
    table.add_column("System", no_wrap=True)
    for title in ("MRR@10", "nDCG@10", "Recall@100", "ms/query", "Index"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in report["systems"]:
        mark = " (served)" if row["name"] == served else ""
        table.add_row(
            wording.system_title(row["name"]) + mark,
            wording.score(row["mrr@10"]),
            wording.score(row["ndcg@10"]),
            wording.score(row["recall@100"]),
            wording.milliseconds(row["ms_per_query"]),
            wording.size(row["index_bytes"]),
            style="bold" if row["name"] == served else None,
        )
    lines = [f"Relevance: {report['relevance']['text']}."]
    if report.get("verdict"):
        lines.append(report["verdict"]["why"])
    lines += report.get("notes", [])
    table.caption = Text("\n".join(lines), style="dim")
    table.caption_justify = "left"
    return table


def example_lines(report: dict[str, Any], hits: int = 3) -> list[Text]:
    """The example queries, `hits` of the hits each; `*` marks the relevant ones. Print line by line."""
    lines: list[Text] = []
    for example in report["examples"]:
        lines.append(
            Text.assemble(
                ("Query: ", "dim"), (wording.snippet(example["query"], 160), "bold"), (f"  ({example['why']})", "dim")
            )
        )
        for hit in example["hits"][:hits]:
            title = f"{hit['title']}: " if hit["title"] else ""
            lines.append(
                Text.assemble(
                    ("  * " if hit["relevant"] else "    ", "green"),
                    f"{hit['rank']}. ",
                    (f"{hit['score']:.3f}  ", "cyan"),
                    (f"{hit['passage_id']}  ", "dim"),
                    wording.snippet(title + hit["snippet"], 120),
                )
            )
        if not any(hit["relevant"] for hit in example["hits"][:hits]):
            rank = example["ranks"].get(example["system"])
            where = f"at rank {rank}" if rank else "not among the first 100"
            lines.append(Text(f"    (the relevant passage is {where})", style="dim"))
        lines.append(Text())
    return lines
