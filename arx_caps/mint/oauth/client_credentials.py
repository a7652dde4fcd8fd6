# SPDX-License-Identifier: Apache-2.0
"""The grant ``client_credentials``: a task of the client's agent, and its access token.  CONTROL 5.3, RFC 6749 4.4."""

from collections.abc import Mapping

from arx_caps.mint.context import Born, MintContext
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.oauth.client.clients import OAuthClient
from arx_caps.mint.oauth.handles import Issued
from arx_caps.mint.oauth.task_grant import issue_in_session, opener_of


def grant_client_credentials(
    mint: MintContext, unit: UnitOfWork, born: Born, client: OAuthClient, form: Mapping[str, str]
) -> Issued:
    """Start a task for a client's agent and issue an access token for it; see ``issue_in_session``."""
    return issue_in_session(mint, unit, born, client, opener_of(mint, client), form)
