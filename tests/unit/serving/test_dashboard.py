"""The dashboard that ships asks only for what /metrics has: every metric, and every label it is asked by."""

import asyncio
import json
import re
from pathlib import Path

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from retort.releases.routing import Routing, Shadow
from retort.serving.api import create_app
from retort.serving.engine import SearchEngine
from retort.serving.fakes import PASSAGES, make_searcher, make_served
from retort.serving.served import Served

DEPLOY = Path(__file__).parents[3] / "deploy"


def samples():
    """Sample name -> labels, of an endpoint that has done some of everything."""
    made = make_served(make_searcher(PASSAGES, ("words", "other")))
    routing = Routing(shadows=[Shadow(encoder="other", share=1.0)])
    engine = SearchEngine(Served(made.searcher, made.identity, routing=routing))

    async def scenario():
        transport = httpx.ASGITransport(create_app(lambda: engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await client.post("/v1/search", json={"query": "file"})
            await asyncio.sleep(0.05)
            return (await client.get("/metrics")).text

    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(asyncio.run(scenario()))
        for sample in family.samples
    }


def test_every_expression_names_a_metric_and_labels_that_are_there():
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    known = samples()
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions += [item["query"] for item in dashboard["templating"]["list"] if item["type"] == "query"]
    assert len(expressions) > 12
    for expression in expressions:
        names = re.findall(r"\bretort_\w+", expression)
        assert names, expression
        for name in names:
            assert name in known, f"{name} of {expression}"
        asked = set(re.findall(r"(\w+)\s*=~?\s*\"", expression))
        for group in re.findall(r"by \(([^)]*)\)", expression):
            asked |= {label.strip() for label in group.split(",")}
        for name in names:
            assert asked <= known[name], f"{asked - known[name]} of {expression}"


def test_every_metric_is_on_the_dashboard():
    text = (DEPLOY / "grafana.json").read_text()
    families = {re.sub(r"_(total|bucket|sum|count|created)$", "", name) for name in samples()}
    assert {name for name in families if name not in text} == set()


def test_panels_have_their_own_places_and_the_scrape_config_is_valid():
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels) == len({panel["id"] for panel in panels})
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
