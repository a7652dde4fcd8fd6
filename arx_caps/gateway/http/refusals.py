# SPDX-License-Identifier: Apache-2.0
"""Refusals in the form in which the clients of a service read them.  gitprotocol-http(5)."""

import json
from typing import Final

from arx_caps.gateway.base.asgi import Message, Scope, Send
from arx_caps.gateway.catalogue.git_push import PUSH, fetch_refusal, refusal_of
from arx_verifier.verification.grant import Grant

CODE: Final = b"arx-code"  # the header with the code of a refusal whose form has no place for it
_PROBLEM: Final = (b"content-type", b"application/problem+json")
_GIT: Final = {
    "git-fetch": b"application/x-git-upload-pack-result",
    "git-push": b"application/x-git-receive-pack-result",
}


def as_service(form: str, scope: Scope, send: Send) -> Send:
    """Return a ``send`` that writes each problem in the form of the service.

    Args:
        form: ``refusal`` of the route.
        scope: The request's, which has the commands of a push once they were read.
        send: As ASGI has it.
    """
    if form == "json":
        return send
    head: list[Message] = []

    async def written(message: Message) -> None:
        if message["type"] == "http.response.start" and _PROBLEM in message["headers"]:
            head.append(message)
        elif head:
            problem = json.loads(message["body"] or b"{}")
            was_sent = Grant.KEY in scope and problem.get("code") != "rate_limited"  # a kill has ended it since
            what = "arx: this may have run" if problem.get("may_have_run", was_sent) else "refused by arx"
            why = f"{what}: {problem.get('detail') or problem.get('title')}"
            # To a push with another status git prints no reason, and then that everything is up to date.
            status = 200 if form in _GIT else 403
            body = _body_of(form, scope, why)
            headers = [(b"content-type", _GIT.get(form, b"text/plain; charset=utf-8"))]
            headers += [(b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
            headers += [(CODE, code.encode())] if (code := problem.get("code")) else []
            await send({**head.pop(), "status": status, "headers": headers})
            await send({**message, "body": body})
        else:
            await send(message)

    return written


def _body_of(form: str, scope: Scope, why: str) -> bytes:
    if form == "git-push":
        return refusal_of(scope.get(PUSH), why)
    return fetch_refusal(why) if form == "git-fetch" else f"{why}\n".encode()
