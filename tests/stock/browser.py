# SPDX-License-Identifier: Apache-2.0
"""The browser of one person, without scripts: it logs in, answers the consent page, and goes back to the client.

``python -m tests.stock.browser FILE URL``.  The file says who logs in, and which tasks and parameters they choose; a
line of each visit is added to the file beside it with the suffix ``.visits``.
"""

import json
import re
import sys
import time
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

_WAIT_S = 60.0  # until the client listens for the answer


def visit(url: str, person: dict[str, Any]) -> str:
    """Visit a URL as a person does; return the client's answer as a URL, or the text of the last page.

    Args:
        url: Where the client sends the person.
        person: ``name`` and ``password``; ``tasks`` to choose of several; ``params`` by name; ``pages``, the origins of
            mint and provider.
    """
    with httpx.Client(timeout=30) as browser:
        answer = browser.get(url)
        while True:
            if answer.is_redirect:
                url = urljoin(str(answer.url), answer.headers["location"])
                parts = urlsplit(url)
                if f"{parts.scheme}://{parts.netloc}" not in person["pages"]:
                    _come_back(url)
                    return url
                answer = browser.get(url)
            elif 'name="answer"' in answer.text:
                answer = browser.post(url, data=_consent(answer.text, person))
            elif 'name="password"' in answer.text:
                form = _hidden(answer.text) | {"username": person["name"], "password": person["password"]}
                answer = browser.post(url, data=form)
            else:
                return answer.text


def _consent(page: str, person: dict[str, Any]) -> dict[str, str]:
    names = re.findall(r'<input (?:type="checkbox" )?name="((?:task|param)\.[^"]+)"', page)
    form = _hidden(page) | {"answer": "allow"}
    form |= {name: "yes" for name in names if name.startswith("task.") and name[5:] in person["tasks"]}
    return form | {name: person["params"][name.rpartition(".")[2]] for name in names if name.startswith("param.")}


def _hidden(page: str) -> dict[str, str]:
    return {name: unescape(text) for name, text in re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', page)}


def _come_back(url: str) -> None:
    until = time.monotonic() + _WAIT_S
    while True:
        try:
            httpx.get(url, timeout=30)
            return
        except httpx.ConnectError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def main() -> None:
    """Visit a URL."""
    file = Path(sys.argv[1])
    end = visit(sys.argv[2], json.loads(file.read_text()))
    with file.with_suffix(".visits").open("a") as log:
        log.write(json.dumps(end) + "\n")


if __name__ == "__main__":
    main()
