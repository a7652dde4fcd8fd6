# SPDX-License-Identifier: Apache-2.0
"""A service with OpenTelemetry exports its verifier's metrics through it."""

from pathlib import Path
from typing import Any

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from arx_verifier import AccessRequest, open_verifier
from arx_verifier.metrics.families import VERIFIER
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from tests.verifier.journals import service_file


def test_opentelemetry_reads_each_registered_family(tmp_path: Path) -> None:
    """Each family that has a value is an instrument of its name, with its labels as attributes."""
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    verifier = open_verifier(service_file(tmp_path, journal=str(tmp_path / "journal")), epochs=UnsafeLocalEpochs())
    verifier.refuse("missing_token", AccessRequest("", {}, 0))
    data = reader.get_metrics_data()
    assert data is not None
    found = {each.name: each for part in data.resource_metrics[0].scope_metrics for each in part.metrics}
    families = {family.name: family for family in VERIFIER}
    of_others = {
        f"arx_verifier_{name}" for name in ("forked", "keys_age_seconds", "lost_records", "ship_behind_seconds")
    }
    assert found.keys() == families.keys() - of_others - {"arx_verifier_watching"}
    for name, each in found.items():
        assert each.description == families[name].meaning
        for point in each.data.data_points:
            assert set(point.attributes or {}) == set(families[name].labels)
    refused = {"service": verifier.audience, "decision": "deny", "reason": "missing_token"}
    # The counter stays when a verifier is gone: earlier tests of this process may have added to it.
    counted = next(point.value for point in data_points(reader) if point.attributes == refused)
    verifier.refuse("missing_token", AccessRequest("", {}, 0))
    assert [point.value for point in data_points(reader) if point.attributes == refused] == [counted + 1]
    verifier.close()


def data_points(reader: InMemoryMetricReader) -> list[Any]:
    """Return the counted decisions, as they are now."""
    data = reader.get_metrics_data()
    assert data is not None
    found = [each for part in data.resource_metrics[0].scope_metrics for each in part.metrics]
    return [point for each in found if each.name == "arx_verifier_decisions" for point in each.data.data_points]
