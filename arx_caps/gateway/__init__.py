# SPDX-License-Identifier: Apache-2.0
"""A gateway before tools that cannot embed a verifier: MCP servers and plain HTTP services.  SPEC 11.

One process serves several upstreams, a path each.  A verifier decides on each message, and records the decision before
the message is forwarded.  The gateway alone holds the credentials of the upstreams.
"""
