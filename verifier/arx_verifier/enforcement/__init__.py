# SPDX-License-Identifier: Apache-2.0
"""Policy enforcement before an application or a function: adapters, and the answers to refusals.  SPEC 8.4, 13."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_verifier.enforcement.asgi import ArxMiddleware
    from arx_verifier.enforcement.calls import UNSEEN, http_call
    from arx_verifier.enforcement.client_address import Peers
    from arx_verifier.enforcement.enforcement import Enforcement, RefusedCall, read_traceparent
    from arx_verifier.enforcement.guard import current_grant, granted, protect
    from arx_verifier.enforcement.loop_calls import TaskCut
    from arx_verifier.enforcement.messages import (
        BUDGET_KEY,
        MCP_REFUSED,
        META_KEY,
        REFUSAL_KEY,
        McpMessage,
        Messages,
        budget_meta,
        mcp_meaning,
    )
    from arx_verifier.enforcement.problems import BUDGET_HEADER
    from arx_verifier.enforcement.protobuf import arguments_of
    from arx_verifier.enforcement.routes import Meaning, RouteMap, collect_headers, converted_argument
    from arx_verifier.enforcement.rpc_call import RPC_PROBLEM, RpcCall, RpcMethods
    from arx_verifier.enforcement.rpc_streams import RpcContext, RpcStreams
    from arx_verifier.enforcement.views import Matched, Views
    from arx_verifier.enforcement.wsgi import ArxWSGI, GuardedWSGI
    from arx_verifier.enforcement.wsgi_call import CALL_KEY, WSGICall
else:
    __getattr__, __dir__ = open_door(
        __name__,
        {
            "asgi": "ArxMiddleware",
            "calls": "UNSEEN http_call",
            "client_address": "Peers",
            "enforcement": "Enforcement RefusedCall read_traceparent",
            "guard": "current_grant granted protect",
            "loop_calls": "TaskCut",
            "messages": "BUDGET_KEY META_KEY MCP_REFUSED REFUSAL_KEY McpMessage Messages budget_meta mcp_meaning",
            "problems": "BUDGET_HEADER",
            "routes": "Meaning RouteMap collect_headers converted_argument",
            "protobuf": "arguments_of",
            "rpc_call": "RPC_PROBLEM RpcCall RpcMethods",
            "rpc_streams": "RpcContext RpcStreams",
            "views": "Matched Views",
            "wsgi": "ArxWSGI GuardedWSGI",
            "wsgi_call": "CALL_KEY WSGICall",
        },
    )

__all__ = [
    "BUDGET_HEADER",
    "BUDGET_KEY",
    "CALL_KEY",
    "MCP_REFUSED",
    "META_KEY",
    "REFUSAL_KEY",
    "RPC_PROBLEM",
    "UNSEEN",
    "ArxMiddleware",
    "ArxWSGI",
    "Enforcement",
    "GuardedWSGI",
    "Matched",
    "McpMessage",
    "Meaning",
    "Messages",
    "Peers",
    "RefusedCall",
    "RouteMap",
    "RpcCall",
    "RpcContext",
    "RpcMethods",
    "RpcStreams",
    "TaskCut",
    "Views",
    "WSGICall",
    "arguments_of",
    "budget_meta",
    "collect_headers",
    "converted_argument",
    "current_grant",
    "granted",
    "http_call",
    "mcp_meaning",
    "protect",
    "read_traceparent",
]
