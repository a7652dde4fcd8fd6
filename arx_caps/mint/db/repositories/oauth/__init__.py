# SPDX-License-Identifier: Apache-2.0
"""Tables of OAuth: clients, consents, handles, refreshes, issuers."""
