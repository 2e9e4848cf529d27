"""Serving: a release (one index, the query encoders over it) answered over HTTP.

release.py      what is served, which encoders fit, and the pointer that names it
searcher.py     queries to hits: encode, search, filter, group, fetch, highlight (no Ray, no HTTP)
filters.py      the filter language over corpus fields
highlights.py   which words of a hit to mark, and the snippet round them
batcher.py      requests into batches: takes whatever queued while the last batch ran
engine.py       searcher behind the batcher on a bounded executor; deadlines, back pressure, stage timings
models.py       the request and response models, which make the OpenAPI document
api.py          the HTTP application; problems.py its errors, limits.py its middleware, metrics.py its numbers
pages.py        the search page and the API page (page/), without external assets
front.py        the HTTP front: HAProxy where it is installed, and keeping it private
deployments.py  the Ray Serve shell (the only file here that holds a deployment)
app.py          ServeConfig, the application builder, and running it until Ctrl-C
client.py       a small client, synchronous and asynchronous
fakes.py        a world of five passages whose every score can be worked out by hand
"""
