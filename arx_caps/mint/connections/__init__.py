# SPDX-License-Identifier: Apache-2.0
"""Accounts of people at upstreams: connected once, sealed, and lent to live calls as access tokens.  CONTROL 9"""
