# SPDX-License-Identifier: Apache-2.0
"""Strangers could send the console long forms, made-up cookies and links as often as they liked."""

from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from arx_caps.console import visit
from arx_caps.mint.rate_limit import RateLimits
from arx_verifier.token import wire
from tests.console.harness import Browser, sign_in
from tests.mint.harness import ISSUER, Harness

COOKIE = {"Cookie": f"arx-console={wire.text_of(bytes(32))}"}
LINK = wire.text_of(bytes(32))
CALLS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("GET", "/console/now", {"headers": COOKIE}),
    ("GET", f"/console/open?link={LINK}", {}),
    ("POST", "/console/kill", {"data": {"targets": "realm:acme"}}),
    ("POST", "/console/open", {"data": {"link": "x"}}),
    ("POST", "/console/sign-out", {"content": b"a" * 300_000}),
    ("POST", "/console/sign-out", {"data": {"next": "/"}, "headers": {"Origin": "https://evil.example"}}),
)


@pytest.mark.sqlite
@pytest.mark.parametrize(("method", "path", "more"), CALLS, ids=lambda each: each if isinstance(each, str) else "")
def test_each_is_counted(
    unit: Harness, monkeypatch: pytest.MonkeyPatch, method: str, path: str, more: dict[str, Any]
) -> None:
    """An address that goes on is refused before anything is looked up."""
    limits = replace(unit.realm.limits, address_rate=0.001, address_burst=3)
    monkeypatch.setattr(unit.mint, "limits", RateLimits(limits))
    app = Browser(unit).client.app
    client = TestClient(app, base_url=ISSUER, client=("203.0.113.7", 1), follow_redirects=False)
    statuses = [client.request(method, path, **more).status_code for _ in range(5)]
    assert statuses[0] != 429
    assert statuses[-1] == 429, statuses


@pytest.mark.sqlite
@pytest.mark.parametrize("cookie", [{}, COOKIE], ids=["no cookie", "made up"])
def test_a_long_form_is_not_parsed(unit: Harness, monkeypatch: pytest.MonkeyPatch, cookie: dict[str, str]) -> None:
    """Of an operator who is signed in it is."""
    read: list[int] = []
    parse = visit.parse_qsl
    monkeypatch.setattr(visit, "parse_qsl", lambda text, **how: read.append(len(text)) or parse(text, **how))
    form = "a=" + "%41" * 50_000
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": ISSUER}
    for path in ("/console/kill", "/console/open"):
        Browser(unit).client.post(path, content=form, headers=headers | cookie)
    assert max(read, default=0) < 10_000
    sign_in(unit).client.post("/console/kill", content=form, headers=headers)
    assert max(read) == len(form)
