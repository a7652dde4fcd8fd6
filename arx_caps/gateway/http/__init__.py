# SPDX-License-Identifier: Apache-2.0
"""Calls of plain HTTP at the gateway, and the upstream's OpenAPI document."""
