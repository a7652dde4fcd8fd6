# SPDX-License-Identifier: Apache-2.0
"""Relays: one process follows the store for many verifiers of a host or a site.  SPEC 10.7."""
