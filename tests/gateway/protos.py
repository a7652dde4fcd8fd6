# SPDX-License-Identifier: Apache-2.0
"""The protocols in ``vendor/agentgateway``, compiled: clients of tests are made from them.

``python -m tests.gateway.protos`` writes what the gateway reads.
"""

import tempfile
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from arx_caps.gateway.deciders.protos import COMPILED
from tests.house.pages import ROOT

FOLDER: Final = ROOT / "vendor" / "agentgateway"
_FILES: Final = ("shared_envoy.proto", "ext_authz.proto", "ext_mcp.proto")


def compiled() -> descriptor_pb2.FileDescriptorSet:
    """Return the descriptors of the files and of those that they import."""
    import grpc_tools
    from grpc_tools import protoc

    known = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        words = [f"-I{FOLDER}", f"-I{known}", f"--descriptor_set_out={out}", "--include_imports", *_FILES]
        assert protoc.main(["protoc", *words]) == 0
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


def message(name: str) -> Any:
    """Return the class of a message, out of the files."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in compiled().file:
        pool.Add(file)
    return pool


_POOL: Final = _pool()

if __name__ == "__main__":
    COMPILED.write_bytes(compiled().SerializeToString(deterministic=True))
