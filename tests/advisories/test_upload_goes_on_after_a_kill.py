# SPDX-License-Identifier: Apache-2.0
"""A killed agent could go on with an upload over gRPC, to a server with threads.

A thread cannot be cancelled.  What the method sent was refused after the kill, and what the caller sent still reached
it, for as long as the caller went on.
"""

import json
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from arx_verifier import Rule
from arx_verifier.integrations.grpc import ArxInterceptor
from arx_verifier.testing import UnsafeTestRealm
from tests.servers import until

METHOD = "/orders.Orders/Upload"


class Uploads:
    """A method that takes a stream, and what it got of it."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.in_work, self.is_over = threading.Event(), threading.Event()

    def __call__(self, requests: Iterator[Any], _: Any) -> Any:
        try:
            for request in requests:
                self.got.append(request.value)
                self.in_work.set()
        finally:
            self.is_over.set()
        return StringValue(value="stored")


@pytest.mark.spec("11")
def test_what_is_sent_after_a_kill_reaches_no_method() -> None:
    """The method ends at the next message, and the caller gets the reason."""
    realm, uploads = UnsafeTestRealm("orders"), Uploads()
    guard = ArxInterceptor(realm.verifier, {METHOD: "orders.upload"}, data={METHOD: ["value"]}, recheck_ms=5)
    handler = grpc.stream_unary_rpc_method_handler(uploads, StringValue.FromString, StringValue.SerializeToString)
    server = grpc.server(ThreadPoolExecutor(4), interceptors=[guard])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("orders.Orders", {"Upload": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    parts: queue.SimpleQueue[Any] = queue.SimpleQueue()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            token = realm.caller(Rule(tool="orders.upload")).token("orders.upload")
            upload = channel.stream_unary(METHOD, StringValue.SerializeToString, StringValue.FromString)
            parts.put(StringValue(value="before"))
            call = upload.future(iter(parts.get, None), metadata=[("authorization", f"Bearer {token}")])
            assert uploads.in_work.wait(60)
            realm.epochs.kill("agent:test/agent")
            until(lambda: any(decision.outcome == "end" for decision in realm.decisions.decisions))
            parts.put(StringValue(value="after"))
            parts.put(None)
            with pytest.raises(grpc.RpcError) as refused:
                call.result(60)
            assert uploads.is_over.wait(60)
    finally:
        server.stop(None).wait()
    assert uploads.got == ["before"]
    problem = dict(refused.value.trailing_metadata())["arx-problem-bin"]
    assert json.loads(problem)["code"] == "revoked"
