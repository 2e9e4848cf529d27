"""What a re-index will cost, said before it begins: from what the earlier artefacts' manifests measured.

estimate(store, plan...) -> Estimate     passages to embed, worker-hours, money
within_budget(...)                       asks where somebody can be asked, refuses where nobody can
"""

from __future__ import annotations

from dataclasses import dataclass

from retort.errors import ConfigError
from retort.progress import Asker, Progress
from retort.store import Artefact, Store

__all__ = ["Estimate", "estimate", "within_budget"]

BUILD_S_PER_MILLION = 600.0
"""Seconds a million vectors, where no manifest says better: what a graph takes on one thread."""


@dataclass(frozen=True)
class Estimate:
    """Cost in worker-hours: a worker is a process with its threads, or a GPU."""

    to_embed: int
    passages: int
    to_build: int
    rate: float | None  # passages that a worker embeds in a second
    source: str
    device: str
    hours: float | None
    price_per_hour: float | None

    @property
    def price(self) -> float | None:
        """In the currency of the price per hour."""
        return self.hours * self.price_per_hour if self.hours is not None and self.price_per_hour is not None else None

    def told(self) -> str:
        """One sentence for people."""
        what = f"To embed: {self.to_embed:,} of {self.passages:,} passages; to index: {self.to_build:,} vectors."
        if self.hours is None:
            return f"{what} No earlier embeddings say how long that takes."
        price = f", about {self.price:,.2f} at {self.price_per_hour:g} an hour" if self.price is not None else ""
        return f"{what} About {_time(self.hours)} of one {self.device.upper()} worker{price} ({self.source})."


def estimate(
    store: Store,
    *,
    encoder: Artefact,
    earlier: Artefact,
    index: Artefact,
    to_embed: int,
    passages: int,
    to_build: int,
    price_per_hour: float | None,
) -> Estimate:
    """From the rate that `earlier` embeddings measured, or any of this encoder; of another encoder only scaled by size."""
    rate, source = _rate(store, encoder, earlier)
    device = next(iter(earlier.metrics.get("devices", [])), "cpu")
    built = index.metrics.get("build_worker_s")
    per_vector = built / index.metrics["count"] if built and index.metrics.get("count") else BUILD_S_PER_MILLION / 1e6
    seconds = to_build * per_vector
    hours = (to_embed / rate + seconds) / 3600 if rate else (seconds / 3600 if not to_embed else None)
    return Estimate(to_embed, passages, to_build, rate, source, device, hours, price_per_hour)


def within_budget(cost: Estimate, budget: float | None, yes: bool, progress: Progress) -> None:
    """Return if the work may begin. ConfigError if it costs more than `budget` and nobody agreed.

    The budget is money where there is a price per hour, else worker-hours.
    """
    spent = cost.price if cost.price_per_hour is not None else cost.hours
    if budget is None or yes or (spent is not None and spent <= budget):
        return
    unit = "" if cost.price_per_hour is not None else " worker-hours"
    over = f"an unknown amount of{unit or ' money'}" if spent is None else f"{spent:,.3g}{unit}"
    if isinstance(progress, Asker) and progress.can_ask():
        if progress.ask(f"This costs about {over}, more than the budget of {budget:g}{unit}. Go on?"):
            return
        raise ConfigError("Not begun: nothing was changed.")
    raise ConfigError(
        f"This costs about {over}, more than the budget of {budget:g}{unit}, and nobody can be asked here. "
        "Nothing was begun. Say --yes, or raise --budget."
    )


def _rate(store: Store, encoder: Artefact, earlier: Artefact) -> tuple[float | None, str]:
    def of(item: Artefact) -> float | None:
        value = item.metrics.get("passages_per_worker_s")
        return float(value) if value else None

    def made_by(item: Artefact) -> str | None:
        return next((record.digest for record in item.manifest.inputs if record.role == "encoder"), None)

    own = [
        item for item in [earlier, *reversed(store.list("embeddings"))] if made_by(item) == encoder.digest and of(item)
    ]
    if own:
        return of(own[0]), f"{of(own[0]):,.0f} passages/s, measured by {own[0].name}"
    rate = of(earlier)
    if not rate:
        return None, "nothing measured"
    before = earlier.input("encoder")
    scaled = rate * before.size_bytes / encoder.size_bytes
    return scaled, f"{scaled:,.0f} passages/s, from {earlier.name} by the two encoders' sizes"


def _time(hours: float) -> str:
    seconds = hours * 3600
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if hours < 2 else f"{hours:,.1f} hours"
