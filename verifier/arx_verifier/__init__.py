# SPDX-License-Identifier: Apache-2.0
"""Verify, attenuate and delegate ARx tokens: the public names of the package.  SPEC.md defines the bytes."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_verifier._version import __version__ as __version__
    from arx_verifier.constraints.constraint import Constraint as Constraint
    from arx_verifier.constraints.rule import Rule as Rule
    from arx_verifier.enforcement.asgi.asgi import ArxMiddleware as ArxMiddleware
    from arx_verifier.enforcement.base.guard import current_grant as current_grant
    from arx_verifier.enforcement.base.guard import current_watch as current_watch
    from arx_verifier.enforcement.base.guard import protect as protect
    from arx_verifier.enforcement.wsgi.wsgi import ArxWSGI as ArxWSGI
    from arx_verifier.errors import AccessError as AccessError
    from arx_verifier.errors import ArxError as ArxError
    from arx_verifier.errors import AttenuationError as AttenuationError
    from arx_verifier.errors import Failure as Failure
    from arx_verifier.errors import GrantError as GrantError
    from arx_verifier.errors import RequestError as RequestError
    from arx_verifier.errors import SettingsError as SettingsError
    from arx_verifier.errors import TokenError as TokenError
    from arx_verifier.errors import UnavailableError as UnavailableError
    from arx_verifier.journal.decision import Decision as Decision
    from arx_verifier.request import AccessRequest as AccessRequest
    from arx_verifier.request import HttpCall as HttpCall
    from arx_verifier.request import read_json_object as read_json_object
    from arx_verifier.service import open_verifier as open_verifier
    from arx_verifier.token.call_proof import CallSigner as CallSigner
    from arx_verifier.token.caveats import Caveat as Caveat
    from arx_verifier.token.keyring import KeyRing as KeyRing
    from arx_verifier.token.macaroon import Identifier as Identifier
    from arx_verifier.token.macaroon import Macaroon as Macaroon
    from arx_verifier.verification.grant import Grant as Grant
    from arx_verifier.verification.nonces import RedisNonces as RedisNonces
    from arx_verifier.verification.verifier import Verifier as Verifier
else:
    open_door(__name__)
