# SPDX-License-Identifier: Apache-2.0
"""What is written from the registry of metrics and the alerts: tables, runbook, rules with their tests, dashboard.

``python -m tests.house.tables`` writes them.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

import msgspec

from arx_caps.http.metric_families import PROCESSES
from arx_verifier.metrics.families import Family
from tests.house.pages import ROOT

FOLDER: Final = ROOT / "deploy" / "monitoring"
FAMILIES: Final = {family.name: family for families in PROCESSES.values() for family in families}
_HEAD: Final = "# Written by `python -m tests.house.tables` from {}; change that.\n"
_NAME: Final = re.compile(r"\barx_\w+")
_ENDINGS: Final = ("_total", "_bucket", "_sum", "_count")


class Alert(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An alert; ``alerts.toml`` says what its members are."""

    when: str
    expr: str
    for_: str = msgspec.field(default="0s", name="for")
    severity: str
    question: str
    command: str
    fires: list[str]
    passes: list[str]
    labels: dict[str, str] = {}
    at: int = 30


ALERTS: Final = msgspec.convert(
    tomllib.loads((FOLDER / "alerts.toml").read_text(encoding="utf-8")), type=dict[str, Alert]
)


def families_in(expression: str) -> list[Family]:
    """Return the families whose series an expression names.

    Raises:
        KeyError: It names a series that is not registered.
    """
    found = dict.fromkeys(_NAME.findall(expression))
    return [FAMILIES[name if name in FAMILIES else _without_ending(name)] for name in found]


def _without_ending(name: str) -> str:
    for ending in _ENDINGS:
        if name.removesuffix(ending) in FAMILIES:
            return name.removesuffix(ending)
    raise KeyError(name)


def metrics(process: str) -> Iterator[str]:
    """Yield a row for each family of a process."""
    yield from ("| metric | meaning | alerts |", "| --- | --- | --- |")
    for family in PROCESSES[process]:
        labels = f"{{{','.join(family.labels)}}}" if family.labels else ""
        alerts = [name for name, alert in ALERTS.items() if family in families_in(alert.expr)]
        links = ", ".join(f"[{name}](runbook.md#{name.lower()})" for name in alerts)
        yield f"| `{family.series}{labels}` | {family.meaning} | {links} |"


def runbook() -> Iterator[str]:
    """Yield the alerts by severity, and as sections of the runbook."""
    yield from ("| severity | alerts |", "| --- | --- |")
    for severity in dict.fromkeys(alert.severity for alert in ALERTS.values()):
        names = [name for name, alert in ALERTS.items() if alert.severity == severity]
        yield f"| {severity} | {', '.join(f'[{name}](#{name.lower()})' for name in names)} |"
    yield ""
    for name, alert in ALERTS.items():
        held = "" if alert.for_ == "0s" else f", for {alert.for_}"
        yield from (f"## {name}", "")
        yield from (*wrap(f"{alert.severity.capitalize()}{held}: {alert.when}.", 100), "")
        yield from (f"- Type first: `{alert.command}`", f"- Ask first: {alert.question}", "")


def files() -> dict[Path, str]:
    """Return each file of ``deploy/monitoring`` that is written, with its text."""
    return {
        FOLDER / "arx-alerts.yaml": _HEAD.format("alerts.toml") + "\n".join(_rules()) + "\n",
        FOLDER / "arx-dashboard.json": json.dumps(dashboard(), indent=1) + "\n",
        FOLDER / "arx-alerts.test.yaml": _HEAD.format("alerts.toml") + "\n".join(_tests()) + "\n",
    }


def _annotations(name: str, alert: Alert) -> dict[str, str]:
    summary = alert.when[0].upper() + alert.when[1:]
    runbook_url = f"docs/runbook.md#{name.lower()}"
    return {"summary": summary, "question": alert.question, "command": alert.command, "runbook_url": runbook_url}


def _rules() -> Iterator[str]:
    yield from ("groups:", "  - name: arx", "    rules:")
    for name, alert in ALERTS.items():
        yield from (f"      - alert: {name}", f"        expr: {json.dumps(alert.expr)}", f"        for: {alert.for_}")
        yield from ("        labels:", f"          severity: {alert.severity}", "        annotations:")
        yield from (f"          {key}: {json.dumps(text)}" for key, text in _annotations(name, alert).items())


def _tests() -> Iterator[str]:
    yield from ("rule_files: [arx-alerts.yaml]", "evaluation_interval: 1m", "tests:")
    for name, alert in ALERTS.items():
        expected = {"exp_labels": {"severity": alert.severity} | alert.labels}
        expected |= {"exp_annotations": _annotations(name, alert)}
        for case, samples, alerts in (("fires", alert.fires, [expected]), ("passes", alert.passes, [])):
            yield from (f"  - name: {name} {case}", "    interval: 15s", "    input_series:")
            for text in samples:
                series, _, values = text.partition("} ") if "} " in text else text.partition(" ")
                series += "}" if "{" in series else ""
                yield from (f"      - series: {json.dumps(series)}", f"        values: {json.dumps(values)}")
            asked: dict[str, Any] = {"eval_time": f"{alert.at}m", "alertname": name, "exp_alerts": alerts}
            yield f"    alert_rule_test: [{json.dumps(asked)}]"


def expression(family: Family) -> str:
    """Return what a panel shows of a family: a gauge, the rate of a counter, or the 99th percentile."""
    labels = ", ".join(label for label in family.labels if label != "instance")
    if family.kind == "histogram":
        by = ", ".join(filter(None, (labels, "le")))
        return f"histogram_quantile(0.99, sum by ({by}) (rate({family.name}_bucket[$__rate_interval])))"
    if family.kind == "counter":
        return f"sum by ({labels}) (rate({family.series}[$__rate_interval]))"
    return f"max by ({', '.join(filter(None, (labels, 'instance')))}) ({family.name})"


def dashboard() -> dict[str, Any]:
    """Return Grafana's dashboard: a row for each value of ``panel``, and a panel for each family of it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row in dict.fromkeys(family.panel for family in FAMILIES.values() if family.panel):
        panels.append({"type": "row", "title": row, "collapsed": False, "panels": [], "gridPos": _at(0, y, 24, 1)})
        shown = [family for family in FAMILIES.values() if family.panel == row]
        for number, family in enumerate(shown):
            panels.append(_panel(family, _at(number % 3 * 8, y + 1 + number // 3 * 7, 8, 7)))
        y += 1 + -(-len(shown) // 3) * 7
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "uid": "arx",
        "title": "ARx",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels,
    }


def _panel(family: Family, place: dict[str, int]) -> dict[str, Any]:
    legend = " ".join(f"{{{{{label}}}}}" for label in family.labels) or "{{instance}}"
    unit = "s" if "_seconds" in family.name else "bytes" if "_bytes" in family.name else "short"
    return {
        "type": "timeseries",
        "title": family.series,
        "description": family.meaning,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "custom": {"fillOpacity": 10}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [{"refId": "A", "expr": expression(family), "legendFormat": legend}],
    }


def _at(x: int, y: int, w: int, h: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": w, "h": h}
