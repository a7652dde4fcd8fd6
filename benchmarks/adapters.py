# SPDX-License-Identifier: Apache-2.0
"""What an adapter of ``arx_caps.integrations`` adds to one step of an agent: one request to the model, one tool call.

Run it with the Python of an adapter's environment: ``build/adapters/NAME/bin/python -m benchmarks.adapters NAME``.
The framework's hooks are called with its own requests and with handlers that return at once, without and with the
adapter; a step of the framework itself takes about a hundred times as long, and would hide it.  No request is signed,
but for those of gRPC and MCP: there a step is one call, and what is taken off is the same signature and the same
decision without the adapter.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from arx_caps.agent import Bundle, Task
from arx_verifier import Constraint, Rule
from arx_verifier.testing import UnsafeTestRealm

ROUNDS: Final = 30
CALLS: Final = 500  # of one round; with and without take turns
ARGS: Final = {"order_id": "o-1", "amount": 20}
NAMES: Final = {"refund": "orders.refund"}


def task() -> Task:
    """Return a task that allows the call."""
    rules = [
        Rule(tool="orders.get", args={"order_id": "o-1"}),
        Rule(tool="orders.refund", args={"order_id": "o-1", "amount": Constraint(range=(1, 100))}),
    ]
    held = UnsafeTestRealm("orders").caller(*rules, agent="acme/support", task="t-aaaaaaaaaaaaaaaa")
    fields = {"agent": "acme/support", "issuer": "http://127.0.0.1:8700", "realm": "test", "task": "t-aaaaaaaaaaaaaaaa"}
    return Task(Bundle(**fields, origins={"orders": ("http://127.0.0.1:9001",)}, tokens={"orders": held.macaroon}))


def refund(order_id: str, amount: int) -> str:
    """Refund a part of an order."""
    return f"{order_id} {amount}"


def of_langchain() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a step without and with the adapter."""
    from langchain.agents.middleware import ModelRequest, ModelResponse, ToolCallRequest
    from langchain.tools import ToolRuntime, tool
    from langchain_core.language_models.fake_chat_models import FakeListChatModel
    from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
    from langgraph.runtime import Runtime

    from arx_caps.integrations.langchain import ArxAgentMiddleware

    arx, made = ArxAgentMiddleware(task(), tools=NAMES), tool(refund)
    runtime: Any = ToolRuntime(
        state={}, context=None, config={}, stream_writer=lambda _: None, tool_call_id="c-1", store=None
    )
    call: Any = {"name": "refund", "args": ARGS, "id": "c-1", "type": "tool_call"}
    request = ToolCallRequest(tool_call=call, tool=made, state={}, runtime=runtime)
    model = ModelRequest(
        model=FakeListChatModel(responses=[]), messages=[HumanMessage("go")], tools=[made], runtime=Runtime()
    )
    asked, answered = ModelResponse(result=[AIMessage("")]), ToolMessage("20", tool_call_id="c-1")
    assert arx.wrap_tool_call(request, lambda _: answered) is answered

    def guarded() -> None:
        arx.wrap_model_call(model, lambda _: asked)
        arx.wrap_tool_call(request, lambda _: answered)

    return lambda: None, guarded


def of_openai_agents() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a step without and with the adapter."""
    import asyncio
    import json

    from agents import Agent, FunctionTool, RunContextWrapper
    from agents.tool_context import ToolContext
    from agents.util._approvals import evaluate_function_tool_approval

    from arx_caps.integrations.openai_agents import ArxTools

    async def answer(_: Any, __: str) -> str:
        return "20"

    made = FunctionTool("refund", "Refund.", {}, answer)
    (with_task,) = ArxTools(task(), tools=NAMES).guard([made])
    agent, sent, loop = Agent[Any](name="a"), json.dumps(ARGS), asyncio.new_event_loop()
    context = RunContextWrapper[Any](None)
    call = ToolContext[Any](None, tool_name="refund", tool_call_id="c-1", tool_arguments=sent)

    async def step(tool: FunctionTool) -> None:
        if not isinstance(tool.is_enabled, bool):
            assert await tool.is_enabled(context, agent)
        assert (await evaluate_function_tool_approval(tool, context, sent, "c-1")).outcome == "invoke"
        assert await tool.on_invoke_tool(call, sent) == "20"

    return lambda: loop.run_until_complete(step(made)), lambda: loop.run_until_complete(step(with_task))


def of_google_adk() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a step without and with the adapter."""
    import asyncio

    from google.adk.agents.invocation_context import InvocationContext
    from google.adk.agents.llm_agent import LlmAgent
    from google.adk.models.llm_request import LlmRequest
    from google.adk.sessions.in_memory_session_service import InMemorySessionService
    from google.adk.tools.base_tool import BaseTool
    from google.adk.tools.function_tool import FunctionTool
    from google.adk.tools.tool_context import ToolContext

    from arx_caps.integrations.google_adk import ArxToolset

    class Answer(FunctionTool):
        async def run_async(self, *, args: dict[str, Any], tool_context: ToolContext) -> Any:
            return args

    loop, sessions = asyncio.new_event_loop(), InMemorySessionService()
    session = loop.run_until_complete(sessions.create_session(app_name="a", user_id="u"))
    context = ToolContext(
        InvocationContext(invocation_id="i", agent=LlmAgent(name="a"), session=session, session_service=sessions),
        function_call_id="c-1",
    )
    made = Answer(refund)
    (with_task,) = loop.run_until_complete(ArxToolset([made], task(), tools=NAMES).get_tools())

    async def step(tool: BaseTool) -> None:
        await tool.process_llm_request(tool_context=context, llm_request=LlmRequest())
        assert await tool.run_async(args=ARGS, tool_context=context) == ARGS

    return lambda: loop.run_until_complete(step(made)), lambda: loop.run_until_complete(step(with_task))


def of_pydantic_ai() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a step without and with the adapter."""
    import asyncio

    from pydantic_ai.messages import ModelResponse, ToolCallPart
    from pydantic_ai.models import ModelRequestContext, ModelRequestParameters
    from pydantic_ai.models.test import TestModel
    from pydantic_ai.tools import RunContext, Tool
    from pydantic_ai.usage import RunUsage

    from arx_caps.integrations.pydantic_ai import Arx

    made, model = Tool(refund).tool_def, TestModel()
    ctx = RunContext[Any](deps=None, model=model, usage=RunUsage())
    asked = ModelRequestContext(
        model=model, messages=[], model_settings=None, model_request_parameters=ModelRequestParameters()
    )
    call, answered = ToolCallPart("refund", ARGS, tool_call_id="c-1"), ModelResponse(parts=[])
    loop = asyncio.new_event_loop()
    arx = loop.run_until_complete(Arx(task(), tools=NAMES).for_run(ctx))

    async def answer(_: Any) -> Any:
        return answered

    async def step(guarded: bool) -> None:
        if guarded:
            await arx.prepare_tools(ctx, [made])
            await arx.wrap_model_request(ctx, request_context=asked, handler=answer)
            await arx.wrap_tool_execute(ctx, call=call, tool_def=made, args=ARGS, handler=answer)

    return lambda: loop.run_until_complete(step(False)), lambda: loop.run_until_complete(step(True))


def of_a2a() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a message of a client without and with the adapter."""
    import asyncio

    from a2a.client import ClientCallContext
    from a2a.client.interceptors import BeforeArgs
    from a2a.types import AgentCard

    from arx_caps.agent.tools.agent_messages import CARD_SCHEME, bearer_format
    from arx_caps.integrations.a2a import ArxA2AInterceptor

    card = AgentCard(name="worker")
    card.supported_interfaces.add(url="https://worker.example", protocol_binding="JSONRPC")
    card.security_schemes[CARD_SCHEME].http_auth_security_scheme.bearer_format = bearer_format("acme/worker")
    arx = ArxA2AInterceptor(task(), tools=["orders.refund"], args={"amount": {"max": 20}}, ttl="5m")
    loop = asyncio.new_event_loop()

    async def step(guarded: bool) -> None:
        args = BeforeArgs(input=None, method="send_message", agent_card=card, context=ClientCallContext())
        if guarded:
            await arx.before(args)

    return lambda: loop.run_until_complete(step(False)), lambda: loop.run_until_complete(step(True))


def of_a2a_server() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a message of a server without and with the adapter, from its headers to its executor."""
    import asyncio

    from a2a.server.agent_execution import AgentExecutor, RequestContext, SimpleRequestContextBuilder
    from a2a.server.events import EventQueue
    from a2a.server.routes.common import DefaultServerCallContextBuilder
    from starlette.requests import Request

    from arx_caps.agent.tools.agent_messages import message_header
    from arx_caps.integrations.a2a_server import ArxContextBuilder, ArxReceiver, tool_call

    class Works(AgentExecutor):
        calls = False

        async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
            if self.calls:
                with tool_call(context, "orders.refund", ARGS):
                    pass

        async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
            pass

    works, calls, queue, loop = Works(), Works(), EventQueue(), asyncio.new_event_loop()
    calls.calls = True
    part = task().delegate("acme/worker", tools=["orders.refund"], args={"amount": {"max": 20}}, ttl="5m").encode()
    headers = [(b"host", b"worker.example"), (b"authorization", message_header(part).encode())]
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}
    plain = DefaultServerCallContextBuilder(), SimpleRequestContextBuilder(), works
    receiver = ArxReceiver("acme/worker", calls)
    guarded = ArxContextBuilder(), receiver, receiver

    async def step(builder: Any, contexts: Any, executor: Any) -> None:
        await executor.execute(await contexts.build(builder.build(Request(scope))), queue)

    return lambda: loop.run_until_complete(step(*plain)), lambda: loop.run_until_complete(step(*guarded))


def of_grpc() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a call of a client without and with the adapter."""
    import grpc
    from google.protobuf.wrappers_pb2 import StringValue

    from arx_caps.integrations import grpc as adapter

    class Details(NamedTuple):
        method: str
        metadata: Any = None

    class Done:
        def result(self, timeout: float | None = None) -> None:
            pass

    held, request, done, audience = task(), StringValue(value="o-1"), Done(), "orders"
    signer = adapter.RpcSigner("127.0.0.1:9001", False, {"/orders.Orders/Get": "orders.get"}, task=held)
    arx, details = adapter._Interceptor(signer), Details("/orders.Orders/Get")
    assert isinstance(arx, grpc.UnaryUnaryClientInterceptor)
    return (
        lambda: held.call_token(audience, "orders.get", {"value": "o-1"}),
        lambda: arx.intercept_unary_unary(lambda *_: done, details, request).result(),
    )


def of_grpc_server() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a call of a service, decided on without and with the adapter."""
    import grpc
    from google.protobuf.wrappers_pb2 import StringValue

    from arx_verifier.enforcement.base.enforcement import Enforcement
    from arx_verifier.integrations import grpc as adapter
    from arx_verifier.request import AccessRequest

    class Details(NamedTuple):
        method: str
        invocation_metadata: Any

    class Context:
        def peer(self) -> str:
            return "ipv4:192.0.2.7:50051"

    realm = UnsafeTestRealm("orders")
    caller, context, tool = realm.caller(Rule(tool="orders.get", args={"value": "o-1"})), Context(), "orders.get"
    handler = grpc.unary_unary_rpc_method_handler(lambda *_: None, request_deserializer=StringValue.FromString)
    enforcement, sent = Enforcement(realm.verifier), StringValue(value="o-1").SerializeToString()
    arx, method = adapter.ArxInterceptor(realm.verifier, tools={"/orders.Orders/Get": tool}), "/orders.Orders/Get"

    def decided() -> None:
        screened = enforcement.screen(f"Bearer {caller.token(tool, value='o-1')}".encode())
        request = AccessRequest(tool, {"value": "o-1"}, time.time_ns() // 1_000_000, "192.0.2.7")
        enforcement.require(enforcement.decide(screened.token, request, screened), request)

    def guarded() -> None:
        details = Details(method, [("authorization", f"Bearer {caller.token(tool, value='o-1')}")])
        arx.intercept_service(lambda _: handler, details).unary_unary(sent, context)

    return decided, guarded


def of_mcp_client() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return the signature of a call alone, and the call in a client of the SDK's version that is installed."""
    from mcp.shared.message import SessionMessage

    from arx_caps.agent import McpSigner

    held, params = task(), {"name": "refund", "arguments": ARGS}
    about: Any = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    signer = McpSigner(held)
    try:
        from mcp_types import JSONRPCRequest

        message = SessionMessage(JSONRPCRequest(**about))
    except ModuleNotFoundError:
        from mcp.types import JSONRPCMessage

        message = SessionMessage(JSONRPCMessage.model_validate(about))

    def guarded() -> None:
        with signer.call("tools/call", params):
            signer.signed(message)

    return lambda: held.call_token("orders", "orders.refund", ARGS), guarded


def of_mcp_server(handler: Callable[[Any], Callable[[str], Any]]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a decision alone, and the call in a server.

    Args:
        handler: Returns, for a verifier, what handles a call with a token.
    """
    import asyncio

    from arx_verifier.enforcement.base.enforcement import Enforcement
    from arx_verifier.request import AccessRequest

    realm = UnsafeTestRealm("orders")
    caller = realm.caller(Rule(tool="orders.refund", args={"order_id": "o-1", "amount": Constraint(range=(1, 100))}))
    realm.verifier.start()
    enforcement, handle, loop = Enforcement(realm.verifier), handler(realm.verifier), asyncio.new_event_loop()

    async def decide(token: str) -> None:
        request = AccessRequest("orders.refund", ARGS, time.time_ns() // 1_000_000)
        enforcement.require(await enforcement.decide_async(token, request), request)

    def step(answer: Callable[[str], Any]) -> Callable[[], Any]:
        return lambda: loop.run_until_complete(answer(caller.token("orders.refund", **ARGS)))

    return step(decide), step(handle)


def of_mcp() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a call without and with the adapter of the SDK 2."""
    from mcp.server.context import ServerRequestContext

    from arx_verifier.enforcement.mcp.messages import META_KEY
    from arx_verifier.integrations import mcp as adapter

    async def answer(_: Any) -> Any:
        return {"content": []}

    def handler(verifier: Any) -> Callable[[str], Any]:
        arx, meta = adapter.ArxMcpMiddleware(verifier), dict[str, Any]()
        given: Any = {"params": {"name": "refund", "arguments": ARGS, "_meta": meta}, "meta": meta, "request_id": 1}
        given |= {"protocol_version": "2026-07-28", "method": "tools/call", "session": None, "lifespan_context": {}}
        call = ServerRequestContext[Any, Any](**given)

        async def handle(token: str) -> None:
            meta[META_KEY] = token
            assert await arx(call, answer) == {"content": []}

        return handle

    return of_mcp_server(handler)


def of_fastmcp() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a call without and with the adapter of FastMCP."""
    from types import SimpleNamespace

    from fastmcp.server.middleware import MiddlewareContext

    from arx_verifier.enforcement.mcp.messages import META_KEY
    from arx_verifier.integrations import fastmcp as adapter

    async def answer(_: Any) -> Any:
        return "done"

    def handler(verifier: Any) -> Callable[[str], Any]:
        arx, sent, meta = (
            adapter.ArxMcpMiddleware(verifier),
            SimpleNamespace(name="refund", arguments=ARGS),
            dict[str, Any](),
        )
        inner = SimpleNamespace(meta=None, params={"_meta": {}})
        request = SimpleNamespace(meta=meta, request_id="1", request=None, _srctx=inner)
        context: Any = SimpleNamespace(request_context=request)
        call = MiddlewareContext[Any](message=sent, fastmcp_context=context, type="request", method="tools/call")

        async def handle(token: str) -> None:
            meta[META_KEY] = token
            assert await arx(call, answer) == "done"

        return handle

    return of_mcp_server(handler)


def of_mcp_v1() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a call without and with the adapter of the SDK 1.30."""
    from mcp import types
    from mcp.server.lowlevel import Server
    from mcp.server.lowlevel.server import request_ctx
    from mcp.shared.context import RequestContext

    from arx_verifier.enforcement.mcp.messages import META_KEY
    from arx_verifier.integrations import mcp_v1 as adapter

    result = types.ServerResult(types.CallToolResult(content=[]))

    async def answer(_: Any) -> Any:
        return result

    def handler(verifier: Any) -> Callable[[str], Any]:
        server: Any = Server("orders")
        server.request_handlers[types.CallToolRequest] = answer
        guarded = adapter.guard(server, verifier).request_handlers.get(types.CallToolRequest)

        meta = types.RequestParams.Meta.model_validate({META_KEY: ""})
        params = types.CallToolRequestParams.model_construct(name="refund", arguments=ARGS, meta=meta)
        request = types.CallToolRequest.model_construct(method="tools/call", params=params)
        held, about = meta.model_extra, RequestContext[Any, Any](1, meta, None, {})
        assert held is not None

        async def handle(token: str) -> None:
            held[META_KEY] = token
            request_ctx.set(about)
            assert await guarded(request) is result

        return handle

    return of_mcp_server(handler)


ADAPTERS: Final[dict[str, Callable[[], tuple[Callable[[], Any], Callable[[], Any]]]]] = {
    "google_adk": of_google_adk,
    "langchain": of_langchain,
    "openai_agents": of_openai_agents,
    "pydantic_ai": of_pydantic_ai,
    "mcp": of_mcp,
    "mcp_v1": of_mcp_v1,
    "fastmcp": of_fastmcp,
    "mcp_client": of_mcp_client,
    "grpc": of_grpc,
    "grpc_server": of_grpc_server,
    "a2a": of_a2a,
    "a2a_server": of_a2a_server,
}


def measure(call: Callable[[], Any]) -> float:
    """Return the processor time of one call in this thread, µs."""
    began = time.thread_time_ns()
    for _ in range(CALLS):
        call()
    return (time.thread_time_ns() - began) / CALLS / 1e3


def main() -> None:
    """Measure one adapter."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adapters", description=__doc__)
    parser.add_argument("name", choices=sorted(ADAPTERS))
    name = parser.parse_args().name
    bare, guarded = ADAPTERS[name]()
    added = [measure(guarded) - measure(bare) for _ in range(ROUNDS)]
    print(f"{name}: the adapter adds {statistics.median(added):.0f} us to a step, at best {min(added):.0f} us")


if __name__ == "__main__":
    main()
