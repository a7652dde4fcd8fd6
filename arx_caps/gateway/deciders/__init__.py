# SPDX-License-Identifier: Apache-2.0
"""Deciders: what a site's own proxy asks about each request, before it passes the request on.  SPEC 8.5.

``decider`` decides on a request that is described to it.  Each other module speaks the protocol of one kind of proxy,
and decides nothing.
"""
