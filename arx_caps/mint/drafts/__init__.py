# SPDX-License-Identifier: Apache-2.0
"""Policies drafted from recorded calls and from documents of services, and recorded calls that a policy refuses."""
