# SPDX-License-Identifier: Apache-2.0
"""The messages of Envoy's and agentgateway's protocols; ``vendor/agentgateway`` has the original files."""

import functools
from pathlib import Path
from typing import Any, Final

COMPILED: Final = Path(__file__).with_name("protos.binpb")  # a FileDescriptorSet


def message(name: str) -> Any:
    """Return the class of a message.

    Args:
        name: Its full name.
    """
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))


@functools.cache
def _pool() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool

    # Not the pool of the process, where another library may have Envoy's own form of the same names.
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(COMPILED.read_bytes()).file:
        pool.Add(file)
    return pool
