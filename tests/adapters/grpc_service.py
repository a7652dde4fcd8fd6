# SPDX-License-Identifier: Apache-2.0
"""A gRPC service of one message type, made without generated code: its messages, methods and handlers."""

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FIELDS = {"order_id": 9, "amount": 3, "dry_run": 8, "ratio": 1, "chunk": 12}  # string, int64, bool, double, bytes
PREFIX = "/orders.Orders/"
KINDS = {"Get": "unary_unary", "Refund": "unary_unary", "Watch": "unary_stream", "Upload": "stream_unary"}
KINDS |= {"Chat": "stream_stream", "Health": "unary_unary", "Idle": "unary_stream", "Unnamed": "unary_unary"}
TOOLS = {f"{PREFIX}{name}": f"orders.{name.lower()}" for name in KINDS if name not in ("Health", "Unnamed")}
DATA = {f"{PREFIX}Upload": ["chunk"]}


def _call() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="orders.proto", package="orders", syntax="proto3")
    for name, fields in (("Call", FIELDS), ("Newer", {**FIELDS, "secret": 9})):
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            message.field.add(name=field, number=number, type=kind, label=1)
        message.field.add(name="tags", number=20, type=9, label=3)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = message_factory.GetMessageClassesForFiles(["orders.proto"], pool)
    return found["orders.Call"], found["orders.Newer"]


Call, Newer = _call()


def handlers(methods: dict[str, Callable[..., Any]]) -> Any:
    """Return the handler of the service with these methods."""
    made = {
        name: getattr(grpc, f"{KINDS[name]}_rpc_method_handler")(
            method, request_deserializer=Call.FromString, response_serializer=Call.SerializeToString
        )
        for name, method in methods.items()
    }
    return grpc.method_handlers_generic_handler("orders.Orders", made)


def stub(channel: Any, name: str) -> Any:
    """Return the callable of a method."""
    make = getattr(channel, KINDS[name])
    return make(
        f"{PREFIX}{name}", request_serializer=lambda m: m.SerializeToString(), response_deserializer=Call.FromString
    )
