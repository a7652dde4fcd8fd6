# SPDX-License-Identifier: Apache-2.0
"""Spans of OpenTelemetry, one for each message or request, where ``opentelemetry-api`` is installed; else nothing.

Names are those of the semantic conventions for MCP and HTTP, and ``arx.*``.  A span has no argument, no result, no id
of a session and no text of an error.  Who collects spans is the choice of the site, which sets up the SDK.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

from arx_caps.gateway.base.rates import OverRateError
from arx_caps.gateway.base.upstream_answer import UpstreamError
from arx_caps.mcp.message import RpcMessage
from arx_verifier.enforcement.base.enforcement import RefusedCall
from arx_verifier.journal.decision import OK, WOULD_REFUSE, Decision
from arx_verifier.journal.record import EFFECT

try:
    from opentelemetry import propagate, trace  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    propagate = trace = None

_CONTEXT: Final = ("traceparent", "tracestate", "baggage")  # W3C, as `_meta` and headers have it
_LONGEST: Final = 128  # characters of a name that a caller chooses

Note = Callable[[int], None]


class Spans:
    """The spans of one upstream.

    Args:
        upstream: Its name.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream, self._tracer = upstream, trace and trace.get_tracer("arx.gateway")

    def __bool__(self) -> bool:
        """Whether there are spans."""
        return self._tracer is not None

    def message(self, message: RpcMessage, headers: Mapping[bytes, bytes]) -> AbstractContextManager[None]:
        """Return the span of a message of MCP: a context in which it is handled.

        Args:
            message: The message; a reply has no span.
            headers: Of its HTTP request.
        """
        if self._tracer is None or not message.method:
            return nullcontext()
        attributes: dict[str, Any] = {"mcp.method.name": message.method[:_LONGEST]}
        if message.id is not None:
            attributes["jsonrpc.request.id"] = str(message.id)[:_LONGEST]
        if (revision := headers.get(b"mcp-protocol-version")) is not None:
            attributes["mcp.protocol.version"] = revision.decode("latin-1")[:_LONGEST]
        name, kind = message.params.get("name"), {"tools/call": "tool", "prompts/get": "prompt"}.get(message.method)
        title = message.method[:_LONGEST]
        if kind is not None and isinstance(name, str):
            attributes[f"gen_ai.{kind}.name"] = name[:_LONGEST]
            title = f"{title} {name[:_LONGEST]}"
        if kind == "tool":
            attributes["gen_ai.operation.name"] = "execute_tool"
        carrier = {name: text for name in _CONTEXT if isinstance(text := message.meta.get(name), str)}
        return self._span(title, attributes, carrier if "traceparent" in carrier else _carrier(headers))

    @contextmanager
    def request(self, method: str, headers: Mapping[bytes, bytes]) -> Iterator[Note]:
        """Return the span of a plain HTTP request: a context that yields what takes the status of the answer.

        Call it only if there are spans.

        Args:
            method: Its method.
            headers: Its headers.
        """
        with self._span(method, {"http.request.method": method}, _carrier(headers)):
            span = trace.get_current_span()

            def note(status: int) -> None:
                span.set_attribute("http.response.status_code", status)
                if status >= 500:
                    _fail(span, str(status))

            yield note

    @contextmanager
    def _span(self, title: str, attributes: dict[str, Any], carrier: dict[str, str]) -> Iterator[None]:
        # No exception is recorded by itself: its text and its traceback may have arguments.
        with self._tracer.start_as_current_span(
            title,
            context=propagate.extract(carrier),
            kind=trace.SpanKind.SERVER,
            attributes=attributes | {"arx.upstream": self._upstream},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except RefusedCall as refused:
                span.set_attribute("arx.reason", refused.code)
                _fail(span, refused.code)
                raise
            except OverRateError:
                _fail(span, "rate_limited")
                raise
            except UpstreamError as error:
                _fail(span, "timeout" if error.timed_out else "upstream_failed")
                raise
            except Exception as error:
                _fail(span, type(error).__name__)
                raise


def note_decision(decision: Decision) -> None:
    """Add a decision to the span in which it was made.

    Args:
        decision: The recorded decision.
    """
    if trace is None or decision.ends or decision.code == EFFECT:
        return
    span = trace.get_current_span()
    allowed = decision.code == OK
    span.set_attribute("arx.tool", decision.tool[:_LONGEST])
    span.set_attribute("arx.decision", "allow" if allowed else WOULD_REFUSE if decision.watched else "deny")
    span.set_attribute("arx.reason", decision.code)
    span.set_attribute("arx.decision.id", decision.id)


def hand_on(headers: MutableMapping[str, str]) -> None:
    """Put the context of the current span into the headers of a request to an upstream.

    Args:
        headers: Names in lower case; the client's context is replaced.
    """
    if trace is not None and trace.get_current_span().get_span_context().is_valid:
        for name in _CONTEXT:
            headers.pop(name, None)
        propagate.inject(headers)


def handed_on(body: bytes, meta: Mapping[str, Any]) -> bytes:
    """Return a message with the context of the current span in the place of the client's, if it has one in ``_meta``.

    Args:
        body: The message.
        meta: Its ``_meta``.
    """
    came = meta.get("traceparent")
    carrier: dict[str, str] = {}
    hand_on(carrier)
    if not isinstance(came, str) or "traceparent" not in carrier or body.count(b'"%s"' % came.encode()) != 1:
        return body
    return body.replace(b'"%s"' % came.encode(), b'"%s"' % carrier["traceparent"].encode())


def _carrier(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name: headers[name.encode()].decode("latin-1") for name in _CONTEXT if name.encode() in headers}


def _fail(span: Any, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(trace.StatusCode.ERROR)
