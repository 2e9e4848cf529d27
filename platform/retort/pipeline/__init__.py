"""Pipelines: the registry of jobs, the order of steps, resumption, and the quickstart.

jobs.py what can be run; plan.py the YAML of a pipeline; runner.py running it; quickstart.py the whole path for a new user;
plans/ the YAML files that ship with the package.
"""
