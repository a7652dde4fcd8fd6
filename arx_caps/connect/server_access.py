# SPDX-License-Identifier: Apache-2.0
"""One MCP server, as a task sees it: the bridge checks and signs each call, and lists what the task can allow."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import httpx

from arx_caps.agent import ArxAuth, McpSigner, Task
from arx_caps.connect.bundle_file import BundleFile
from arx_caps.http import client as http_client
from arx_caps.mcp.errors import NO_ANSWER, error_answer, refused_result
from arx_caps.mcp.message import RpcMessage, object_in, read_object, result_answer, written
from arx_caps.mcp.wire import kind_of, read_body
from arx_verifier.enforcement.mcp.messages import MCP_REFUSED, mcp_meaning
from arx_verifier.errors import ArxError, RequestError, SettingsError
from arx_verifier.refusal_text import error_for_model, problem_for_model

# A tool may work for as long as its client waits: the client ends a call, not the bridge.
_CALL: Final = httpx.Timeout(None, connect=10.0)
_MESSAGE: Final = httpx.Timeout(30.0, connect=10.0)  # for what the server only has to accept


class ServerAccess:
    """An MCP server and the task that calls it.

    Args:
        url: The server's endpoint.
        bundle: The task's file.
        audience: The server's audience; None if its origin or a task of one audience shows it.

    Raises:
        SettingsError: The URL is none of HTTP.
        AttenuationError: The task has no token for the server's origin, or has several.
    """

    def __init__(self, url: str, bundle: BundleFile, audience: str | None = None) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            parsed = httpx.URL()
        if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo or parsed.fragment:
            raise SettingsError("URL: expected one such as https://tools.example/mcp, without a user or a fragment")
        self.url, self._bundle, self._audience = url, bundle, audience
        self._used: tuple[Task, McpSigner, ArxAuth] | None = None
        self._follow()
        secure = parsed.scheme == "https"
        context = http_client.make_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        # A plain connection stays within a machine or a site, where no proxy of the environment belongs.
        self._client = httpx.AsyncClient(timeout=_CALL, limits=limits, verify=context, trust_env=secure)

    @property
    def audience(self) -> str:
        """The server's audience."""
        return self._follow()[1].audience

    @contextlib.asynccontextmanager
    async def opened(
        self, method: str, headers: Mapping[str, str], body: bytes = b"", *, waits: bool = True
    ) -> AsyncIterator[httpx.Response]:
        """Send a request with a token of its own, and yield the answer, whose body was not read.

        Args:
            method: The HTTP method.
            headers: Its headers.
            body: Its body.
            waits: Whether the answer may take any time.

        Raises:
            ArxError: The request is none of the task's.
            httpx.HTTPError: The server did not answer.
        """
        timeout = _CALL if waits else _MESSAGE
        request = self._client.build_request(method, self.url, content=body, headers=headers, timeout=timeout)
        # A redirect is not followed: the token is for this method, target and body.
        response = await self._client.send(request, auth=self._follow()[2], stream=True, follow_redirects=False)
        try:
            yield response
        finally:
            await response.aclose()

    def refusal(self, message: RpcMessage) -> bytes | None:
        """Return the answer to a call that the task cannot allow, or None where the server has to decide.

        Args:
            message: The message.
        """
        signer = self._follow()[1]
        try:
            tool, _ = mcp_meaning(signer.audience, message.method, message.params)
        except RequestError:
            return None  # the server refuses a method that ARx does not know
        if not tool:
            return None
        try:
            with signer.call(message.method, message.params):
                return None
        except ArxError as error:
            return _refused(message, error_for_model(message.subject, error), {"code": error.code})

    def shorten(self, answer: dict[str, Any]) -> bool:
        """Take the tools out of a list of which the task can allow no call; return whether there was one.

        Args:
            answer: The answer to ``tools/list``, which is changed.
        """
        result = object_in(answer, "result")
        tools = result.get("tools")
        if not isinstance(tools, list):
            return False
        signer = self._follow()[1]
        result["tools"] = [each for each in tools if isinstance(each, dict) and signer.offers(str(each.get("name")))]
        return len(result["tools"]) < len(tools)

    async def failure(self, message: RpcMessage, response: httpx.Response) -> bytes:
        """Return the answer to a request that the server refused, or could not handle.

        Args:
            message: The request.
            response: The server's answer, whose status is an error's or another one that has no message.

        Raises:
            RequestError: The answer is too long.
            httpx.HTTPError: It broke off.
        """
        status, kind = response.status_code, kind_of(response.headers.get("content-type", ""))
        if status < 300:
            return error_answer(message.id, NO_ANSWER, f"the server answered {status} {kind or 'and no message'}")
        if status < 400:
            return error_answer(message.id, NO_ANSWER, f"the server redirects ({status}): use its new URL")
        if kind in ("application/json", "application/problem+json"):
            body = await read_body(response.aiter_bytes())
            with contextlib.suppress(RequestError):
                value = read_object(body)
                if kind == "application/problem+json":
                    if (text := problem_for_model(message.subject, value)) is not None:
                        named = {name: value[name] for name in ("code", "decision") if isinstance(value.get(name), str)}
                        return _refused(message, text, named)
                elif isinstance(value.get("error"), dict):
                    # A server that refuses a message before it knows its id answers with none.
                    return written({"jsonrpc": "2.0", "id": message.id, "error": value["error"]})
        return error_answer(message.id, NO_ANSWER, f"the server answered {status} {response.reason_phrase}".rstrip())

    def lost(self, message: RpcMessage, error: Exception) -> bytes:
        """Return the answer to a request that was not sent, or that the server did not answer.

        Args:
            message: The request.
            error: The error of the HTTP client, or of ARx.
        """
        if isinstance(error, ArxError) and not isinstance(error, RequestError):
            return _refused(message, error_for_model(message.subject, error), {"code": error.code})
        return error_answer(message.id, NO_ANSWER, self.reason(error))

    def reason(self, error: Exception) -> str:
        """Return why a message got no answer, for its client or a log.

        Args:
            error: The error of the HTTP client, or of ARx.
        """
        if isinstance(error, ArxError):
            return str(error)
        return f"the server did not answer: {http_client.no_answer(error, self.url)}"

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _follow(self) -> tuple[Task, McpSigner, ArxAuth]:
        task = self._bundle.task
        if self._used is None or self._used[0] is not task:
            signer = McpSigner(task, self._audience, self.url)
            self._used = task, signer, task.auth(signer.audience)
        return self._used


def _refused(message: RpcMessage, text: str, data: Mapping[str, Any]) -> bytes:
    if message.method == "tools/call":
        result = refused_result(text, is_stateless=message.version is not None)
        return result_answer(message.id, result)
    return error_answer(message.id, MCP_REFUSED, text, data)
