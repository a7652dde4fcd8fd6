# SPDX-License-Identifier: Apache-2.0
"""Requests signs what it sends, by ``Task.requests_auth``."""

import pickle
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter

from arx_caps.agent import Task
from arx_verifier.errors import AttenuationError
from tests.adapters.http_clients import Answer, HttpClientContract, World, traced


class TestRequests(HttpClientContract):
    """The contract."""

    name = "requests"

    def send(self, task: Task, method: str, url: str, **more: Any) -> Answer:
        headers = {"content-type": "application/json"} | more.get("headers", {})
        with requests.Session() as session:
            session.auth = task.requests_auth(approvals=more.get("approvals", ()))
            stream = more.get("stream", False)
            answer = session.request(method, url, data=more.get("body"), headers=headers, stream=stream, timeout=60)
            body = b"".join(answer.iter_content(10)) if stream else answer.content
        return Answer(answer.status_code, body)

    def repeat(self, task: Task, url: str) -> Answer:
        with requests.Session() as session:
            session.auth = task.requests_auth()
            while (answer := session.get(url, timeout=60)).status_code == 503:
                pass
        return Answer(answer.status_code, answer.content)

    def shown(self, task: Task, url: str) -> str:
        with requests.Session() as session:
            session.auth = task.requests_auth()
            with pytest.raises(requests.RequestException) as caught:
                session.get(url, timeout=60).raise_for_status()
        error = caught.value
        seen = [error, error.request, error.response, session.auth, traced(error)]
        return " ".join(f"{each!r} {getattr(each, '__dict__', '')}" for each in seen)

    def test_a_redirect_is_followed_without_a_token(self, served: World) -> None:
        """The stranger answers; the service refuses."""
        away, moved = (self.send(served.task(), "GET", served.address + path) for path in ("/away", "/moved"))
        assert (away.body, moved.json()["code"]) == (b"stranger", "missing_token")

    def test_a_request_that_is_prepared_once_is_accepted_once(self, served: World) -> None:
        """Also below a session, where the retries of an adapter are: the second is refused, and does not run."""
        with requests.Session() as session:
            request = requests.Request("GET", f"{served.address}/busy", auth=served.task().requests_auth())
            prepared = session.prepare_request(request)
            token = prepared.headers["Authorization"]
            served.orders.busy = 0
            first = session.send(prepared, timeout=60)
            prepared.headers["Authorization"] = token
            second = session.send(prepared, timeout=60)
        assert (first.status_code, second.status_code, second.json()["code"]) == (200, 401, "replayed")

    def test_the_retries_of_an_adapter_run_nothing_twice(self, served: World) -> None:
        """They send the one token again: the service refuses it."""
        served.orders.busy = 1
        with requests.Session() as session:
            from urllib3 import Retry

            session.mount("http://", HTTPAdapter(max_retries=Retry(2, status_forcelist=[503], backoff_factor=0)))
            answer = session.get(f"{served.address}/busy", auth=served.task().requests_auth(), timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (401, "replayed")

    def test_what_cannot_sign_is_refused_at_once(self, served: World) -> None:
        """An audience that the task does not have is refused at once, and what signs is not pickled."""
        with pytest.raises(AttenuationError, match="no token for"):
            served.task().requests_auth("mail")
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(served.task().requests_auth())
