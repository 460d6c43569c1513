"""What is read at a scrape: links and watch sources as they are."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bpflinkd.core.ids import Micros
from bpflinkd.core.model import State
from bpflinkd.core.statistics import Reading


class Snapshot(NamedTuple):
    """Everything at one moment."""

    reading: Reading
    sources: Mapping[str, bool]
    """Watch sources, and whether each is live."""


_NOTHING = Snapshot(Reading(at=Micros(0), counting=False, reason="", links=()), {})


class LinksCollector(Collector):
    """Asks for a snapshot at each scrape."""

    def __init__(self, take: Callable[[], Snapshot]) -> None:
        """`take` may wait, and raise, which ends the scrape."""
        self._take = take

    def collect(self) -> Iterable[Metric]:
        """Called by the registry, on the thread of a scrape."""
        return _families(self._take())

    def describe(self) -> Iterable[Metric]:
        """The names alone, for scrapes that ask for some of them."""
        return _families(_NOTHING)


def _families(taken: Snapshot) -> list[Metric]:
    """Prometheus puts `_total` behind the names of counters by itself."""
    reading = taken.reading
    links = GaugeMetricFamily("bpflinkd_links", "Links by state.", labels=["state"])
    states = Counter(link.view.health.state for link in reading.links)
    for state in State:
        links.add_metric([state], states[state])
    sources = GaugeMetricFamily(
        "bpflinkd_watch_source_up", "Whether a watch source is live.", labels=["source"]
    )
    for source, live in taken.sources.items():
        sources.add_metric([source], live)
    counting = GaugeMetricFamily(
        "bpflinkd_run_counting",
        "Whether the kernel counts runs now; while it does not, bpflinkd_link_runs stands still.",
        value=reading.counting,
    )
    return [links, sources, counting, *_of_links(reading)]


def _of_links(reading: Reading) -> list[Metric]:
    active = GaugeMetricFamily(
        "bpflinkd_link_active", "Whether the program of a link runs on its target.", labels=["link"]
    )
    generation = GaugeMetricFamily(
        "bpflinkd_link_generation", "Generation that a link is at.", labels=["link"]
    )
    runs = CounterMetricFamily(
        "bpflinkd_link_runs", "Runs of a link's program; a replace begins at 0.", labels=["link"]
    )
    seconds = CounterMetricFamily(
        "bpflinkd_link_run_seconds", "Time that these runs took, all together.", labels=["link"]
    )
    misses = CounterMetricFamily(
        "bpflinkd_kprobe_misses",
        "Hits of a kprobe that ran nothing: the slot was empty, or the kernel suppressed them.",
        labels=["link", "reason"],
    )
    for link in reading.links:
        name = [link.view.record.name]
        active.add_metric(name, link.view.health.state is State.ACTIVE)
        generation.add_metric(name, link.view.record.generation.number)
        if link.counts is not None:
            runs.add_metric(name, link.counts.runs)
            seconds.add_metric(name, link.counts.nanoseconds / 1e9)
        if link.misses is not None:
            misses.add_metric([*name, "empty"], link.misses.empty)
            misses.add_metric([*name, "suppressed"], link.misses.suppressed)
    return [active, generation, runs, seconds, misses]
