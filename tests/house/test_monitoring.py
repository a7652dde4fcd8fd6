# SPDX-License-Identifier: Apache-2.0
"""Alerts and dashboard name registered metrics alone, each alert fires and passes, and its command exists."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from arx_caps.cli.app import cli
from tests.house.monitoring import ALERTS, FAMILIES, FOLDER, PROCESSES, dashboard, families_in

LABELS = re.compile(r"\barx_\w+?(?:_total|_bucket)?\{([^}]*)\}")
NAME = re.compile(r'(\w+)(?:=~|!=|=)"')
GIVEN = {"instance", "job", "le"}  # by Prometheus


def promtool(*words: str | Path) -> None:
    if shutil.which("promtool") is None:
        if os.environ.get("ARX_REQUIRE_PROMTOOL"):
            pytest.fail("promtool is not installed, and ARX_REQUIRE_PROMTOOL says that it has to be")
        pytest.skip("promtool is not installed; Debian has it in the package prometheus")
    done = subprocess.run(["promtool", *words], cwd=FOLDER, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_each_alert_fires_and_passes() -> None:
    """promtool accepts the rules; each fires with one set of series, and does not with another."""
    promtool("check", "rules", "arx-alerts.yaml")
    promtool("test", "rules", "arx-alerts.test.yaml")


@pytest.mark.nightly
def test_promtool_notices_an_alert_that_does_not_fire(tmp_path: Path) -> None:
    """The tests can fail: without the series of one alert they do."""
    shutil.copy(FOLDER / "arx-alerts.yaml", tmp_path)
    text = (FOLDER / "arx-alerts.test.yaml").read_text(encoding="utf-8")
    changed = text.replace("arx_log_halted{", "arx_log_hated{")
    assert changed != text
    (tmp_path / "test.yaml").write_text(changed, encoding="utf-8")
    with pytest.raises(AssertionError, match="ArxLogHalted"):
        promtool("test", "rules", tmp_path / "test.yaml")


@pytest.mark.parametrize(("required", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_a_machine_without_promtool(
    required: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its tests are skipped there, but fail where everything has to be tried."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ARX_REQUIRE_PROMTOOL", required)
    with pytest.raises(outcome, match="promtool is not installed"):
        promtool("check", "rules", "arx-alerts.yaml")


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_names_registered_metrics(name: str) -> None:
    """Its expression and its series name families and labels of the registry, and its command is one of ``arx``."""
    alert = ALERTS[name]
    families = families_in(alert.expr)
    assert families
    for text in (alert.expr, *alert.fires, *alert.passes):
        known = GIVEN.union(*(family.labels for family in families_in(text)))
        assert {label for labels in LABELS.findall(text) for label in NAME.findall(labels)} <= known
    assert alert.severity in ("page", "ticket", "heartbeat")
    assert alert.question.endswith("?")
    assert alert.passes
    assert alert.fires
    words = iter(alert.command.split())
    assert next(words) == "arx"
    command: click.Command = cli
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), next(words))
        assert found is not None, alert.command
        command = found
    options = {option: each for each in command.params for option in each.opts}
    option = ""
    for word in words:
        if word[0] == "-":
            assert word in options, alert.command
        elif option and not isinstance(options[option].type, click.Path):
            options[option].type_cast_value(click.Context(command), word)
        option = word if word[0] == "-" else ""


def test_a_metric_is_registered_once() -> None:
    """Two families of one name are the same family."""
    for families in PROCESSES.values():
        assert len({family.name for family in families}) == len(families)
        assert all(FAMILIES[family.name] == family for family in families)
        assert not [family for family in families if {"agent", "session", "task"} & set(family.labels)]


def test_the_dashboard_asks_what_promtool_understands(tmp_path: Path) -> None:
    """Each panel's expression is one of Prometheus and names a registered family; no two panels lie over each other."""
    made = dashboard()
    assert made == json.loads((FOLDER / "arx-dashboard.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in made["panels"] for target in panel.get("targets", ())]
    assert len(asked) > 30
    rules = ["groups:", "  - name: panels", "    rules:"]
    for number, text in enumerate(asked):
        [_] = families_in(text)
        text = text.replace("$__rate_interval", "5m")
        rules += [f"      - record: panel{number}", f"        expr: {json.dumps(text)}"]
    (tmp_path / "panels.yaml").write_text("\n".join(rules) + "\n", encoding="utf-8")
    promtool("check", "rules", tmp_path / "panels.yaml")
    places = [panel["gridPos"] for panel in made["panels"]]
    squares = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(squares)) == len(squares)
    assert max(x for x, _ in squares) < 24
