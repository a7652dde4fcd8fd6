# SPDX-License-Identifier: Apache-2.0
"""The operators' web pages, at ``/console`` of a mint.  CONTROL 6.

A page gets its data by calling the API's own endpoints in this process, so that roles, checks and records are those of
the API.
"""
