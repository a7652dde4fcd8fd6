# SPDX-License-Identifier: Apache-2.0
"""A browser without a screen at the console of ``unit`` or ``live``: it keeps cookies and fills in forms."""

import contextlib
import re
import threading
from collections.abc import Iterator
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import uvicorn
from starlette.testclient import TestClient

from arx_caps.console.app import compose
from arx_caps.credentials.jose import KeyFile
from tests.console.html import require_well_formed
from tests.mint.harness import ISSUER, Harness, Holder
from tests.servers import free_ports, until


class Browser:
    """A browser that may be signed in.

    Attributes:
        client: The HTTP client, with the browser's cookies.
        page: The last page.
    """

    def __init__(self, harness: Harness) -> None:
        app: Any = harness.client.app
        if not any(getattr(route, "path", "") == "/console" for route in app.router.routes):
            compose(app, harness.mint)
        self.client = TestClient(app, base_url=ISSUER, raise_server_exceptions=False)
        self.page: httpx2.Response | None = None

    def get(self, path: str) -> str:
        """Open a page, and return its HTML, which is well formed."""
        self.page = self.client.get(path)
        if self.page.headers.get("content-type", "").startswith("text/html"):
            require_well_formed(self.page.text)
        return self.page.text

    def post(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> str:
        """Send a form with the token of the last page, and return the page that follows."""
        found = re.search(r'name="token" value="([^"]+)"', self.page.text if self.page is not None else "")
        form = ({"token": unescape(found[1])} if found else {}) | fields
        self.page = self.client.post(path, data=form, headers={"Origin": ISSUER, **(headers or {})})
        return self.page.text

    def stop_streams(self) -> None:
        """End every stream of the console, as the server does when it begins to stop."""
        app: Any = self.client.app
        app.router.routes[-1].app.state.live.stop()

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        """Serve the application over HTTP, for answers that do not end by themselves; yields the URL."""
        port = free_ports(1)[0]
        config = uvicorn.Config(self.client.app, port=port, log_config=None, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            until(lambda: server.started)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join()

    @property
    def status(self) -> int:
        """The status of the last page."""
        assert self.page is not None
        return self.page.status_code


def link_of(holder: Holder) -> str:
    """Return a new link of an operator, without the issuer."""
    answer = holder.call("POST", "/v1/console/links")
    assert answer.status_code == 200, answer.text
    parts = urlsplit(answer.json()["url"])
    return f"{parts.path}?{parts.query}"


def sign_in(harness: Harness, operator: Holder | None = None, *, lands: int = 200) -> Browser:
    """Return a browser in which an operator is signed in; the realm's first one by default.

    Args:
        harness: The realm.
        operator: The operator.
        lands: The status of the first page that is then shown.
    """
    browser, link = Browser(harness), link_of(operator or harness.operator())
    browser.get(link)
    browser.post("/console/open", link=parse_qs(urlsplit(link).query)["link"][0])
    assert browser.status == lands, browser.page
    return browser


def operator_with(harness: Harness, name: str, role: str) -> Holder:
    """Enrol an operator with a role, and return it signed in to the API."""
    key = KeyFile.generate("operator", name, ISSUER)
    answer = harness.operator().call("POST", "/v1/operators", {"name": name, "jwk": key.key.public.jwk, "role": role})
    assert answer.status_code == 201, answer.text
    holder = Holder(harness, key.key, None)
    token = holder.call("POST", "/v1/operators/token", {"assertion": harness.assertion(key)})
    assert token.status_code == 201, token.text
    return Holder(harness, key.key, token.json()["token"])
