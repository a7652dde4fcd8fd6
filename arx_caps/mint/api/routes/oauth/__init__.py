# SPDX-License-Identifier: Apache-2.0
"""Routes of OAuth: authorization, tokens, clients, exchange."""
