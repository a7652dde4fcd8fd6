# SPDX-License-Identifier: Apache-2.0
"""Policy enforcement before an application or a function: adapters, and the answers to refusals.  SPEC 8.4, 13."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_verifier.enforcement.asgi.asgi import ArxMiddleware as ArxMiddleware
    from arx_verifier.enforcement.asgi.calls import UNSEEN as UNSEEN
    from arx_verifier.enforcement.asgi.calls import http_call as http_call
    from arx_verifier.enforcement.base.client_address import Peers as Peers
    from arx_verifier.enforcement.base.enforcement import Enforcement as Enforcement
    from arx_verifier.enforcement.base.enforcement import RefusedCall as RefusedCall
    from arx_verifier.enforcement.base.enforcement import is_token as is_token
    from arx_verifier.enforcement.base.enforcement import read_traceparent as read_traceparent
    from arx_verifier.enforcement.base.guard import current_grant as current_grant
    from arx_verifier.enforcement.base.guard import current_watch as current_watch
    from arx_verifier.enforcement.base.guard import follow_effect as follow_effect
    from arx_verifier.enforcement.base.guard import granted as granted
    from arx_verifier.enforcement.base.guard import protect as protect
    from arx_verifier.enforcement.base.guard import running_call as running_call
    from arx_verifier.enforcement.base.problems import BUDGET_HEADER as BUDGET_HEADER
    from arx_verifier.enforcement.base.routes import Meaning as Meaning
    from arx_verifier.enforcement.base.routes import RouteMap as RouteMap
    from arx_verifier.enforcement.base.routes import collect_headers as collect_headers
    from arx_verifier.enforcement.base.routes import converted_argument as converted_argument
    from arx_verifier.enforcement.grants.loop_calls import TaskCut as TaskCut
    from arx_verifier.enforcement.mcp.messages import BUDGET_KEY as BUDGET_KEY
    from arx_verifier.enforcement.mcp.messages import MCP_REFUSED as MCP_REFUSED
    from arx_verifier.enforcement.mcp.messages import META_KEY as META_KEY
    from arx_verifier.enforcement.mcp.messages import REFUSAL_KEY as REFUSAL_KEY
    from arx_verifier.enforcement.mcp.messages import McpMessage as McpMessage
    from arx_verifier.enforcement.mcp.messages import Messages as Messages
    from arx_verifier.enforcement.mcp.messages import budget_meta as budget_meta
    from arx_verifier.enforcement.mcp.messages import mcp_effect as mcp_effect
    from arx_verifier.enforcement.mcp.messages import mcp_meaning as mcp_meaning
    from arx_verifier.enforcement.rpc.protobuf import arguments_of as arguments_of
    from arx_verifier.enforcement.rpc.rpc_call import RPC_PROBLEM as RPC_PROBLEM
    from arx_verifier.enforcement.rpc.rpc_call import RpcCall as RpcCall
    from arx_verifier.enforcement.rpc.rpc_call import RpcMethods as RpcMethods
    from arx_verifier.enforcement.rpc.rpc_streams import RpcContext as RpcContext
    from arx_verifier.enforcement.rpc.rpc_streams import RpcStreams as RpcStreams
    from arx_verifier.enforcement.wsgi.views import Matched as Matched
    from arx_verifier.enforcement.wsgi.views import Views as Views
    from arx_verifier.enforcement.wsgi.wsgi import ArxWSGI as ArxWSGI
    from arx_verifier.enforcement.wsgi.wsgi import GuardedWSGI as GuardedWSGI
    from arx_verifier.enforcement.wsgi.wsgi_call import CALL_KEY as CALL_KEY
    from arx_verifier.enforcement.wsgi.wsgi_call import WSGICall as WSGICall
else:
    open_door(__name__)
