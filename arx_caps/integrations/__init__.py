# SPDX-License-Identifier: Apache-2.0
"""Adapters that carry a task into agent frameworks and HTTP clients, one file each; an extra installs what each needs.

Each module imports its framework, and nothing imports an adapter.  ``make adapters`` tests each with its framework.
"""
