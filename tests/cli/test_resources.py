# SPDX-License-Identifier: Apache-2.0
"""The resources that commands list and name are those of the mint's API, and each path is written once."""

import ast
from typing import Any

import pytest

from arx_caps.cli import resources
from arx_caps.cli.resources import AGENTS, RUNS, Resource, list_of
from arx_caps.mint.api.app import describe_api
from tests.house.pages import ROOT

CLI = ROOT / "arx_caps" / "cli"
RESOURCES = [value for value in vars(resources).values() if isinstance(value, Resource)]
PATHS = {resource.path for resource in RESOURCES}
# What signs an operator in is below the resources.
BELOW = {"access/mint_session.py": {"/v1/operators/token"}}


@pytest.fixture(scope="module")
def api() -> dict[str, Any]:
    """The description of the mint's API."""
    return describe_api("https://mint.example")


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.schema)
def test_the_mint_has_the_resource(api: dict[str, Any], resource: Resource) -> None:
    """
    The mint lists it at this path, and answers page by page if the command line asks so.
    """
    operation = api["paths"][resource.path]["get"]
    parameters = {parameter["name"] for parameter in operation.get("parameters", ())}
    assert ("limit" in parameters) == resource.paged


def test_a_path_is_written_once() -> None:
    """
    No other module of the command line has the path of a resource, or what begins with it.
    """
    written: dict[str, set[str]] = {}
    for file in CLI.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("/v1/"):
                place = written.setdefault(file.relative_to(CLI).as_posix(), set())
                place |= {node.value for path in PATHS if f"{node.value}/".startswith(f"{path}/")}
    own = written.pop("resources.py")
    assert own == PATHS
    assert {place: paths for place, paths in written.items() if paths} == BELOW


def test_a_cell_is_of_a_column() -> None:
    """
    A mistyped head is refused when the command is made: its column would show another member.
    """
    with pytest.raises(AssertionError, match="MADE"):
        list_of(AGENTS, "AGENT: path, STATE", {"MADE": str})


def test_the_member_of_rows_follows_the_schema() -> None:
    """
    The schema names the member of the answer after its last hyphen.
    """
    assert (AGENTS.member, RUNS.member) == ("agents", "runs")
