# SPDX-License-Identifier: Apache-2.0
"""Adapters of frameworks, one file each: an adapter maps a request to ``Enforcement`` and decides nothing.  SPEC 11.

An adapter has the name of its framework and an extra of its own.  Nothing imports it but the application.
"""
