# SPDX-License-Identifier: Apache-2.0
"""Export the metrics of a process's verifiers through the Prometheus client and OpenTelemetry.

Each is used where it is installed.  Both read when they are asked: a decision costs a counter and no more.
"""

import importlib
import logging
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from operator import add
from typing import Any, Final

from arx_verifier._native import COMPILED
from arx_verifier._platform import at_fork
from arx_verifier._version import __version__
from arx_verifier.journal.decision import DecisionSink
from arx_verifier.metrics.counted_decisions import CountedDecisions, Counts
from arx_verifier.metrics.families import VERIFIER, Family
from arx_verifier.revocation.epoch import Epochs

Samples = Iterable[tuple[Any, ...]]  # name, value, and the values of the labels
Readiness = Callable[[Epochs, DecisionSink], Any]  # ``verification.readiness``, which is above this package
PROMETHEUS: Final = "prometheus_client"
OPENTELEMETRY: Final = "opentelemetry.metrics"
SHIPPING: Final[dict[object, Callable[[], Samples]]] = {}  # what each upkeep of this process shows

_JOINS: Final[dict[str, Callable[[float, float], float]]] = {
    "arx_verifier_lost_records": add,
    "arx_verifier_ready": min,
}
_VERIFIERS: "weakref.WeakKeyDictionary[CountedDecisions, tuple[str, Epochs, Readiness]]" = weakref.WeakKeyDictionary()
# By service.  They stay when a verifier is gone: a counter that fell would be taken for one of a new process.
_COUNTS: Final = defaultdict[str, Counts](lambda: Counts(int))
_LOCK: Final = threading.RLock()  # of all below and above
_tried: set[str] = set()  # the libraries that are asked to read here
_exported: set[str] = set()  # those that do
_log = logging.getLogger(__name__)


class SampleReader:
    """A collector of the Prometheus client that reads samples at each scrape.

    Args:
        families: The families that it exports, also those without a sample.
        read: Yields the samples.
    """

    def __init__(self, families: Sequence[Family], read: Callable[[], Samples]) -> None:
        self._families, self._read = families, read

    def collect(self) -> Iterable[Any]:
        """Return the families with their samples."""
        core = importlib.import_module(f"{PROMETHEUS}.core")
        kinds = {"counter": core.CounterMetricFamily, "gauge": core.GaugeMetricFamily}
        metrics = {each.name: kinds[each.kind](each.name, each.meaning, labels=each.labels) for each in self._families}
        for name, value, *labels in self._read():
            metrics[name].add_metric(labels, value)
        return metrics.values()

    def describe(self) -> Iterable[Any]:
        """Return nothing: at registration the process has not started, and nothing is read before the first scrape."""
        return ()


def export_decisions(sink: DecisionSink, service: str, epochs: Epochs, readiness: Readiness) -> DecisionSink:
    """Return a sink that counts for the libraries of this process; the sink itself if neither is installed.

    A library that fails is logged, once, and never stops the service.

    Args:
        sink: Records the decisions.
        service: The service's name.
        epochs: Its view of the kill epoch.
        readiness: Returns whether calls can be allowed now, given the view and the sink.
    """
    with _LOCK:
        for name, begin in ((PROMETHEUS, _begin_prometheus), (OPENTELEMETRY, _begin_opentelemetry)):
            if name not in _tried:
                _tried.add(name)
                _begin(name, begin)
        if not _exported:
            return sink
        counted = CountedDecisions(sink, _COUNTS[service])
        _VERIFIERS[counted] = service, epochs, readiness
        return counted


def _begin(name: str, begin: Callable[[Any], None]) -> None:
    try:
        if find_spec(name) is not None:
            begin(importlib.import_module(name))
            _exported.add(name)
    except ModuleNotFoundError:  # of a parent package
        pass
    except Exception as error:
        _log.warning("the verifier's metrics are not exported to %s: %s", name, type(error).__name__)


def _begin_prometheus(library: Any) -> None:
    library.REGISTRY.register(SampleReader(VERIFIER, _samples))


def _begin_opentelemetry(library: Any) -> None:
    meter = library.get_meter("arx_verifier", __version__)

    def observe(family: Family) -> Callable[[Any], Iterator[Any]]:
        return lambda _: (
            library.Observation(value, dict(zip(family.labels, labels, strict=True)))
            for name, value, *labels in _samples()
            if name == family.name
        )

    for family in VERIFIER:
        make = meter.create_observable_counter if family.kind == "counter" else meter.create_observable_gauge
        make(family.name, callbacks=[observe(family)], description=family.meaning)


def _samples() -> Samples:
    yield "arx_build_info", 1, "verifier", __version__, "compiled" if COMPILED else "pure"
    with _LOCK:
        reads: list[Callable[[], Samples]] = [partial(_samples_of, each, *of) for each, of in _VERIFIERS.items()]
        reads += [*SHIPPING.values(), *(partial(_decisions_of, *each) for each in _COUNTS.items())]
    # Two verifiers of one service may run in a process: the worse of both is shown.
    shown: dict[tuple[str, ...], float] = {}
    for read in reads:
        for name, value, *labels in read():
            key = (name, *labels)
            shown[key] = _JOINS.get(name, max)(value, shown[key]) if key in shown else value
    yield from ((name, value, *labels) for (name, *labels), value in shown.items())


def _decisions_of(service: str, counts: Counts) -> Samples:
    for labels, times in list(counts.items()):
        yield "arx_verifier_decisions", times, service, *labels


def _samples_of(counted: CountedDecisions, service: str, epochs: Epochs, readiness: Readiness) -> Samples:
    try:
        (ready, why, fill), (_, _, age_ms) = readiness(epochs, counted), epochs.view()
    except Exception:  # such as a journal's folder that is gone: the application's other metrics go on
        yield "arx_verifier_ready", 0, service
        return
    if why == "closed":  # by its application: that it allows nothing is no fault
        return
    yield "arx_verifier_ready", ready, service
    yield "arx_verifier_epoch_age_seconds", age_ms / 1000, service
    yield "arx_verifier_journal_fill", fill, service
    if epochs.watch_until_ms > time.time() * 1000:
        yield "arx_verifier_watching", epochs.watch_until_ms / 1000, service


def _release_in_child() -> None:
    SHIPPING.clear()  # no thread of the parent runs here
    _LOCK.release()


# A fork waits for the lock: a child could never free one that a thread of its parent holds.
at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_release_in_child)
