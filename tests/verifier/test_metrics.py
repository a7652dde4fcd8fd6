# SPDX-License-Identifier: Apache-2.0
"""A service that embeds a verifier exports its metrics with its own, and does without a library."""

import gc
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from arx_verifier import AccessRequest, open_verifier
from arx_verifier.journal import Journal
from arx_verifier.metrics import SHIPPING, VERIFIER
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from tests.verifier.test_recording import service_file

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
    """Two verifiers of one service are one series, the worse state of both, and gone with them."""
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
    SHIPPING["counted"] = lambda: 7.5
    assert exported()["arx_verifier_ship_behind_seconds"] == {("counted",): 7.5}
    del SHIPPING["counted"]
    second.epochs.close()
    assert exported()["arx_verifier_ready"]["counted",] == 0
    first.close()
    second.close()
    del first, second, verifier
    gc.collect()
    assert ("counted",) not in exported().get("arx_verifier_ready", {})


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
verifier = open_verifier(sys.argv[1], epochs=UnsafeLocalEpochs())
print(type(verifier.decisions).__name__)
"""


@pytest.mark.parametrize(("program", "warns"), [(WITHOUT, False), (BROKEN, True)])
def test_a_service_does_without_a_library(tmp_path: Path, program: str, warns: bool) -> None:
    """Nothing stands between verifier and journal; a library that fails is named in the log, and stops nothing."""
    file = service_file(tmp_path, journal=str(tmp_path / "journal"))
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, timeout=120)
    assert done.stdout == f"{Journal.__name__}\n", done.stderr
    assert ("not exported to prometheus_client: AttributeError" in done.stderr) == warns
