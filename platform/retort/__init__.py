"""Retort: from a team's own corpus to a fast, accurate, multilingual search endpoint.

The library behind the `retort` command. Rooms, in the order in which they may know each other: `errors`, `resources`,
`config`, `store`, `runtime`, `metrics`, `corpus`, `models`, `indexing`, `mining`, `teaching`, `distillation`, `tuning`,
`evaluation` | `serving` | `cluster`, `pipeline`, `cli`.
"""

__version__ = "0.1.0"
