"""Ray, wrapped once: connecting.py to a cluster, stages.py for maps over parts (Ray Data), loop.py for training (Ray Train).

Rooms keep their own Ray-facing code in files named stages.py and loop.py, which build on these.
"""
