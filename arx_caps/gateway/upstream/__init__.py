# SPDX-License-Identifier: Apache-2.0
"""The way to an upstream: forwarding, credentials, programs over stdio."""
