# SPDX-License-Identifier: Apache-2.0
"""Sign each request of requests.  SPEC 8.

requests signs when it prepares a request.  A request that is prepared once and sent twice, as by the retries of an
``HTTPAdapter``, carries one token, and the second is refused as replayed: repeat the call instead.
"""

from typing import Any
from urllib.parse import urlsplit

from requests import PreparedRequest, Response
from requests.auth import AuthBase

from arx_caps.agent.tasks.origins import origin_of
from arx_caps.agent.tasks.request_signer import (
    ClientSigner,
    SignedHeader,
    came_before_start,
    is_short_problem,
    read_body,
)


class RequestsAuth(ClientSigner, AuthBase):
    """Authentication for requests; made by ``Task.requests_auth``.

    Args:
        signer: Signs the requests.
    """

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Read the body and sign a request; requests calls this.

        Args:
            request: The request, prepared but for its authentication.

        Raises:
            AttenuationError: It goes to no origin of the task, or to one of several audiences, or has an Authorization
                header already.  Nothing was sent.
        """
        if request.body is not None and not isinstance(request.body, bytes):
            request.body = read_body(request.body)
            request.headers.pop("Transfer-Encoding", None)
            request.headers["Content-Length"] = str(len(request.body))
        self._sign(request)
        request.register_hook("response", self._answered)
        return request

    def _sign(self, request: PreparedRequest) -> None:
        url = urlsplit(str(request.url))
        # requests sends a path that begins with two slashes with one.
        target = "/" + request.path_url.lstrip("/") if request.path_url.startswith("//") else request.path_url
        request.headers["Authorization"] = self._signer.header(
            origin_of(url.scheme, url.hostname or "", url.port),
            str(request.method),
            target.encode("ascii"),
            read_body(request.body),
            written=request.headers.get("Authorization"),
        )

    def _answered(self, response: Response, **settings: Any) -> Response:
        # A redirected request is a copy of this one.  Without the header no redirect carries the token, also where
        # requests would keep it, and what logs the answer cannot show it.
        if not isinstance(response.request.headers.pop("Authorization", None), SignedHeader):
            return response
        if not is_short_problem(response.status_code, response.headers) or not came_before_start(response.content):
            return response
        again = response.request.copy()
        self._sign(again)
        answer: Response = response.connection.send(again, **settings)
        again.headers.pop("Authorization")
        return answer
