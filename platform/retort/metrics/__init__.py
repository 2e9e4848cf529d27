"""Pure functions over runs, qrels and numbers; nothing here knows about files, models or Ray.

    measures.py      mrr@k, ndcg@k, recall@k, success@k per query, as trec_eval defines them
    significance.py  is a difference real: paired bootstrap, randomisation test, seed means
    simultaneous.py  bounds that hold for many groups (languages, slices) and several looks at once
    fusion.py        reciprocal rank fusion of rankings

A *run* is `{query_id: {passage_id: score}}`, higher is better; *qrels* are `{query_id: {passage_id: grade}}`.
"""
