# SPDX-License-Identifier: Apache-2.0
"""A service that embeds a verifier exports its metrics with its own, and does without a library."""

import gc
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from arx_caps.service.upkeep import keep_service
from arx_verifier import AccessRequest, open_verifier
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.journal.writer import Journal
from arx_verifier.metrics.export import SHIPPING, export_decisions
from arx_verifier.metrics.families import VERIFIER
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.service import FileKeys
from arx_verifier.verification.freshness import readiness
from tests.servers import until
from tests.verifier.journals import service_file

pytestmark = pytest.mark.spec("15.2")


def exported() -> dict[str, dict[tuple[str, ...], float]]:
    """What this process exports of the registered families, each of which must have its type, meaning and labels."""
    texts = text_string_to_metric_families(generate_latest(REGISTRY).decode())
    found = {each.name: each for each in texts if each.name.startswith("arx_")}
    assert found.keys() == {family.name for family in VERIFIER}
    values: dict[str, dict[tuple[str, ...], float]] = {}
    for family in VERIFIER:
        assert (found[family.name].type, found[family.name].documentation) == (family.kind, family.meaning)
        for sample in found[family.name].samples:
            assert sample.labels.keys() == set(family.labels)
            labels = tuple(sample.labels[label] for label in family.labels)
            assert labels not in values.setdefault(sample.name, {}), "a scrape refuses a series that is there twice"
            values[sample.name][labels] = sample.value
    return values


def refuse(verifier: object) -> None:
    assert verifier.refuse("missing_token", AccessRequest("", {}, time.time_ns() // 1_000_000)).code == "missing_token"  # type: ignore[attr-defined]


def test_a_service_exports_what_is_registered(tmp_path: Path) -> None:
    """Two verifiers of one service are one series, the worse state of both; its counter stays behind them."""
    more = {"audience": "counted", "journal": str(tmp_path / "journal")}
    first = open_verifier(service_file(tmp_path, **more), epochs=UnsafeLocalEpochs())
    (tmp_path / "second").mkdir()
    second = open_verifier(service_file(tmp_path / "second", **more), epochs=UnsafeLocalEpochs())
    for verifier in (first, first, second):
        refuse(verifier)
    values = exported()
    assert values["arx_verifier_decisions_total"]["counted", "deny", "missing_token"] == 3
    assert values["arx_verifier_ready"]["counted",] == 1
    assert 0 <= values["arx_verifier_journal_fill"]["counted",] < 1
    assert [labels[0] for labels in values["arx_build_info"]] == ["verifier"]
    second.epochs.fence("by the test")  # type: ignore[attr-defined]
    assert exported()["arx_verifier_ready"]["counted",] == 0
    second.close()
    assert exported()["arx_verifier_ready"]["counted",] == 1, "what its application closed is no fault"
    assert exported()["arx_verifier_decisions_total"]["counted", "deny", "missing_token"] == 3
    del second, verifier
    gc.collect()
    assert exported()["arx_verifier_decisions_total"]["counted", "deny", "missing_token"] == 3
    refuse(first)
    first.close()
    assert ("counted",) not in exported().get("arx_verifier_ready", {})
    del first
    gc.collect()
    assert exported()["arx_verifier_decisions_total"]["counted", "deny", "missing_token"] == 4, "a counter never falls"


def test_a_broken_verifier_is_not_ready(tmp_path: Path) -> None:
    """The application's other metrics, and those of its other verifiers, go on."""

    class Unreadable(InMemoryDecisions):
        @property
        def fill(self) -> float:
            raise OSError("the journal's disk is away")

    file = service_file(tmp_path, audience="broken")
    broken = open_verifier(file, epochs=UnsafeLocalEpochs(), decisions=Unreadable())
    values = exported()
    assert values["arx_verifier_ready"]["broken",] == 0
    assert ("broken",) not in values.get("arx_verifier_journal_fill", {})
    broken.close()


def test_a_scrape_while_verifiers_are_opened(tmp_path: Path) -> None:
    """Neither fails."""
    open_verifier(service_file(tmp_path), epochs=UnsafeLocalEpochs(), decisions=InMemoryDecisions())  # a library reads
    view, stop, interval = UnsafeLocalEpochs(), threading.Event(), sys.getswitchinterval()

    def open_many() -> None:
        kept: deque[object] = deque(maxlen=500)
        while not stop.is_set():
            kept.append(export_decisions(InMemoryDecisions(), "many", view, readiness))

    sys.setswitchinterval(1e-6)
    with ThreadPoolExecutor() as pool:
        opened = pool.submit(open_many)
        try:
            for _ in range(100):
                list(REGISTRY.collect())
        finally:
            stop.set()
            sys.setswitchinterval(interval)
        opened.result()


@pytest.mark.servers
def test_upkeep_that_cannot_begin_is_behind(tmp_path: Path) -> None:
    """Its age is shown while the file is unusable; of two of one service the one that ends leaves the other's."""
    file, stops = service_file(tmp_path, audience="kept"), (threading.Event(), threading.Event())
    with ThreadPoolExecutor() as pool:
        first, second = (pool.submit(keep_service, file, "kept", FileKeys(file), stop) for stop in stops)
        try:
            until(lambda: SHIPPING.keys() >= set(stops))
            values = exported()
            assert values["arx_verifier_ship_behind_seconds"]["kept",] > 0
            assert values["arx_verifier_keys_age_seconds"]["kept",] > 0
            assert values["arx_verifier_forked"]["kept",] == values["arx_verifier_lost_records_total"]["kept",] == 0
            stops[0].set()
            first.result()
            assert exported()["arx_verifier_ship_behind_seconds"]["kept",] > 0
        finally:
            for stop in stops:
                stop.set()
        second.result()
    assert ("kept",) not in exported().get("arx_verifier_ship_behind_seconds", {})


WITHOUT = """
import sys
for name in ("prometheus_client", "opentelemetry"):
    sys.modules[name] = None
from arx_verifier import open_verifier
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
verifier = open_verifier(sys.argv[1], epochs=UnsafeLocalEpochs())
print(type(verifier.decisions).__name__)
"""
BROKEN = """
import sys, types
broken = types.ModuleType("prometheus_client")
broken.__spec__ = types.SimpleNamespace(name="prometheus_client")
sys.modules["prometheus_client"] = broken
sys.modules["opentelemetry"] = None
from arx_verifier import open_verifier
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
open_verifier(sys.argv[1], epochs=UnsafeLocalEpochs())
verifier = open_verifier(sys.argv[1], epochs=UnsafeLocalEpochs())
print(type(verifier.decisions).__name__)
"""


@pytest.mark.parametrize(("program", "warns"), [(WITHOUT, False), (BROKEN, True)])
def test_a_service_does_without_a_library(tmp_path: Path, program: str, warns: bool) -> None:
    """Nothing stands between verifier and journal; a library that fails is named in the log once, and stops nothing."""
    file = service_file(tmp_path, journal=str(tmp_path / "journal"))
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, timeout=120)
    assert done.stdout == f"{Journal.__name__}\n", done.stderr
    assert done.stderr.count("not exported to prometheus_client: AttributeError") == warns
