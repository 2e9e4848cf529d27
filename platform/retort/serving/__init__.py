"""Serving: a release (one index, the query encoders over it) answered over HTTP.

config.py       ServeConfig, and the release that it means
app.py          the application builder, and running it until Ctrl-C
deployments.py  the Ray Serve shell (the only file here that holds a deployment); replica.py what one is made of
front.py        the HTTP front: HAProxy where it is installed, and keeping it private

following.py    a replica follows its release: load beside, check, swap, take back
opening.py      opening releases, sharing by digest; canaries.py the check; served.py what answers at one moment
routing.py      which encoder answers; shadowing.py trying others; guarding.py when a release is taken back

engine.py       a request's way: route, cache, batch, answer; batcher.py requests into batches; work.py what a batch does
searcher.py     queries to hits: encode, search, filter, group, fetch (no Ray, no HTTP); needs.py what it needs, as protocols
fusing.py       BM25 beside the vectors; reranking.py the teacher behind them; caching.py vectors and answers
scattered.py    an index whose shards lie in other processes
filters.py      the filter language over corpus fields; corpus_view.py what is worked out of a corpus once
hits.py         hits as shown; highlights.py which words to mark, and the snippet round them

models.py       the request and response models, which make the OpenAPI document
api.py          the HTTP application; limits.py its middleware, problems.py its errors
gate.py         who may ask how much; keys.py API keys
journal.py      log lines; tracing.py spans; metrics.py numbers, metrics_exchange.py and metrics_text.py those of all replicas
pages.py        the search page and the API page (page/), without external assets
client.py       a small client, synchronous and asynchronous
fakes.py        a world of five passages whose every score can be worked out by hand
"""
