"""Whole systems side by side, for a reader who must decide which of them to serve.

evaluate.py   EvaluateConfig and the step `evaluate`: runs, scores, report.json and report.html
systems.py    BM25, base, student and teacher behind one protocol: texts in, rankings out
rerank.py     the teacher's reading of the student's best passages; stages.py spreads it over a cluster
latency.py    what one query costs, one at a time
findings.py   from runs to numbers: means with intervals, differences with p, slices
verdict.py    student or base, and why
examples.py   three queries with their hits
charts.py, page.py   report.html from report.json
tables.py     report.json in the terminal
wording.py    how numbers are written, in all of them
"""
