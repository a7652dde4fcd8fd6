# SPDX-License-Identifier: Apache-2.0
"""urllib3 signs what it sends, by ``Task.urllib3_pool``."""

import pickle
from typing import Any

import pytest
import urllib3

from arx_caps.agent import Task
from tests.adapters.http_clients import Answer, HttpClientContract, World, traced


class TestUrllib3(HttpClientContract):
    """The contract."""

    name = "urllib3"

    def send(self, task: Task, method: str, url: str, **more: Any) -> Answer:
        headers = {"content-type": "application/json"} | more.get("headers", {})
        stream = more.get("stream", False)
        with task.urllib3_pool(retries=False, approvals=more.get("approvals", ())) as http:
            answer = http.request(method, url, body=more.get("body"), headers=headers, preload_content=not stream)
            body = b"".join(answer.stream(10)) if stream else answer.data
            answer.release_conn()
        return Answer(answer.status, body)

    def repeat(self, task: Task, url: str) -> Answer:
        with task.urllib3_pool() as http:
            retries = urllib3.Retry(3, status_forcelist=[503], backoff_factor=0)
            answer = http.request("GET", url, retries=retries)
        return Answer(answer.status, answer.data)

    def shown(self, task: Task, url: str) -> str:
        seen: list[Any] = []
        with task.urllib3_pool(retries=1) as http:
            try:
                seen.append(http.request("GET", url))
            except urllib3.exceptions.HTTPError as error:
                seen += [error, traced(error)]
        seen.append(http)
        return " ".join(f"{each!r} {getattr(each, '__dict__', '')}" for each in seen) + url

    def test_a_redirect_is_the_callers(self, served: World) -> None:
        """The answer comes back, with the address that it names."""
        with served.task().urllib3_pool() as http:
            answer = http.request("GET", f"{served.address}/away", redirect=True)
        assert (answer.status, answer.headers["location"]) == (307, f"{served.stranger_address}/orders/o-1")

    def test_json_and_fields(self, served: World) -> None:
        """What urllib3 encodes by itself is signed as it is sent."""
        with served.task().urllib3_pool() as http:
            refunded = http.request("POST", f"{served.address}/orders/o-1/refund", json={"amount": 5})
            found = http.request("GET", f"{served.address}/orders/o-1", fields={"full": "yes"})
        assert (refunded.status, found.status) == (200, 200)

    def test_what_signs_is_not_pickled(self, served: World) -> None:
        """It holds a live token."""
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(served.task().urllib3_pool())
