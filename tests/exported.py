# SPDX-License-Identifier: Apache-2.0
"""Compare what a process exports with the registry of metrics."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from arx_caps.http.metric_families import PROCESSES


def exported_by(process: str, address: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Read the metrics of a running process, and compare each with its family: name, type, meaning and labels.

    Args:
        process: Its name in the registry.
        address: Its host and port.

    Returns:
        By series the values, by the values of the labels in the registry's order; of a histogram the count.
    """
    registered = {family.name: family for family in PROCESSES[process]}
    families = {each.name: each for each in text_string_to_metric_families(read_metrics(address))}
    assert families.keys() == registered.keys()
    values: dict[str, dict[tuple[str, ...], float]] = {}
    for name, family in registered.items():
        found = families[name]
        assert (found.type, found.documentation) == (family.kind, family.meaning), name
        of = values.setdefault(family.series, {})
        for sample in found.samples:
            assert sample.labels.keys() - {"le"} == set(family.labels), sample
            if sample.name in (family.series, f"{name}_count"):
                of[tuple(sample.labels[label] for label in family.labels)] = sample.value
    return values


def read_metrics(address: str) -> str:
    """Return the text of the metrics at an address."""
    answer = httpx.get(f"http://{address}/metrics", timeout=30)
    assert answer.status_code == 200
    return answer.text
