# SPDX-License-Identifier: Apache-2.0
"""Seven live pages of the console held all connections of a browser, and an operator could not open the page Kill."""

import contextlib
import time
from collections.abc import Iterator

import httpx
import pytest

from arx_caps.console.live import MOST_OF_BROWSER
from tests.console.harness import Browser, sign_in
from tests.mint.harness import Harness

CONNECTIONS = 6  # of a browser to one host with HTTP/1.1
WITHIN_S = 20.0  # for a stream that does not end
PATHS = ("/console/now/live", "/console/decisions/live", "/console/sessions/live", "/console/verifiers/live")

pytestmark = [pytest.mark.spec("CONTROL 6.1"), pytest.mark.sqlite, pytest.mark.realm(log=True)]


@contextlib.contextmanager
def browsing(browser: Browser, url: str) -> Iterator[httpx.Client]:
    """Yield a client with a browser's cookies and its bound on connections."""
    limits = httpx.Limits(max_connections=CONNECTIONS)
    cookies = {"arx-console": browser.client.cookies["arx-console"]}
    with httpx.Client(base_url=url, cookies=cookies, limits=limits, timeout=30, trust_env=False) as client:
        yield client


def text_of(answer: httpx.Response) -> str:
    """Return the rest of a stream that ends, or what it has within a time."""
    text, until = "", time.monotonic() + WITHIN_S
    for part in answer.iter_text():  # there is a part at least every 15 s
        text += part
        if time.monotonic() > until:
            break
    return text


def test_a_browser_with_many_live_pages_has_connections_left(unit: Harness) -> None:
    """The oldest stream ends and says why; the newest ones go on, and the page Kill opens."""
    browser = sign_in(unit)
    with browser.serving() as url, browsing(browser, url) as client, contextlib.ExitStack() as stack:
        pages = [stack.enter_context(client.stream("GET", PATHS[n % len(PATHS)])) for n in range(MOST_OF_BROWSER)]
        for _ in range(7):  # one more would wait for a connection until the time is over
            pages.append(stack.enter_context(client.stream("GET", PATHS[0])))
            assert "event: paused" in text_of(pages.pop(0))
        assert client.get("/console/kill").status_code == 200
        assert all(not page.is_closed for page in pages)
        browser.stop_streams()
        assert not any("event: paused" in text_of(page) for page in pages)


def test_a_browser_takes_no_stream_of_another(unit: Harness) -> None:
    """The same operator at two desks: each has the streams of its own sign-in."""
    one, other = sign_in(unit), sign_in(unit)
    with (
        one.serving() as url,
        browsing(one, url) as first,
        browsing(other, url) as second,
        contextlib.ExitStack() as stack,
    ):
        pages = [
            stack.enter_context(client.stream("GET", PATHS[0]))
            for client in (first, second)
            for _ in range(MOST_OF_BROWSER)
        ]
        one.stop_streams()
        assert not any("event: paused" in text_of(page) for page in pages)
