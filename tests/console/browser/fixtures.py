# SPDX-License-Identifier: Apache-2.0
"""The browser, the realm, and operators who are signed in."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.console.browser.__main__ import BUILD
from tests.console.browser.realm import DemoRealm, demo_realm
from tests.console.browser.visit import TIMEOUT_MS, Visit, axe_script

Visitor = Callable[..., Visit]
expect.set_options(timeout=TIMEOUT_MS)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option."""
    parser.addoption("--all", action="store_true", help="look at all pages in both themes")
    parser.addoption("--running", type=Path, help="a file with what `make busy` wrote, to use its realm")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    with sync_playwright() as playwright:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        with playwright.chromium.launch(executable_path="/usr/bin/chromium", args=root) as made:
            yield made


@pytest.fixture(scope="session")
def realm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoRealm]:
    """A busy realm."""
    running = request.config.getoption("--running")
    if running is not None:
        yield DemoRealm(json.loads(running.read_text()), os.environ)
        return
    with demo_realm(tmp_path_factory.mktemp("busy"), BUILD / "realm.log", 4.0) as made:
        yield made


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe."""
    return axe_script()


@pytest.fixture
def visitor(browser: Browser, realm: DemoRealm) -> Iterator[Visitor]:
    """Makes browsers in which an operator of the realm is signed in; their faults fail the test."""
    visits: list[Visit] = []

    def visit(operator: str = "ada", **view: Any) -> Visit:
        visits.append(Visit(browser, realm.mint, realm.link(operator), **view))
        return visits[-1]

    yield visit
    faults = [fault for one in visits for fault in one.close()]
    assert faults == []
