"""The search application for `serve run` and `serve deploy`: `serve run serve_apps.search:app index=NAME`."""

from ray.serve import Application

from retort.serving.app import ServeConfig, build


def app(config: ServeConfig) -> Application:
    return build(config)
