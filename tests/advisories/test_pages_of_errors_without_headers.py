# SPDX-License-Identifier: Apache-2.0
"""Some answers of the console had no policy for their content, and strangers could make pages fail."""

import pytest

from arx_caps.console import visit
from tests.console.harness import Browser, sign_in
from tests.mint.harness import Harness


@pytest.mark.sqlite
def test_each_answer_has_the_headers(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages, redirects, files, what does not exist, and an unexpected error."""
    browser = sign_in(unit)
    browser.client.follow_redirects = False
    found = {}
    for path in ("", "/", "/home", "/now", "/nowhere", "//now", "/static/console.css", "/sign-out"):
        browser.get(f"/console{path}")
        found[path] = browser.page
    tag = found["/static/console.css"].headers["etag"]  # type: ignore[union-attr]
    found["304"] = browser.client.get("/console/static/console.css", headers={"If-None-Match": tag})
    monkeypatch.setattr(visit, "find_console_session", lambda *_: 1 / 0)
    browser.get("/console/now")
    found["bug"] = browser.page
    status = {path: page.status_code for path, page in found.items() if page is not None}
    assert (status["304"], status["bug"], status["/nowhere"], status["/sign-out"]) == (304, 500, 404, 405)
    for path, page in found.items():
        assert page is not None
        assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'"), path
        assert page.headers["x-frame-options"] == "DENY", path


@pytest.mark.sqlite
@pytest.mark.parametrize("path", ["/console/sign-in?next=//[", "/console/kills/" + "9" * 5000])
def test_no_address_fails(unit: Harness, path: str) -> None:
    """What is no address of a page, and a number that is longer than the interpreter reads."""
    browser = Browser(unit)
    browser.get(path)
    assert browser.status < 500
