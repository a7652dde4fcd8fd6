# SPDX-License-Identifier: Apache-2.0
"""A tool service of the busy realm: ``POST /VERB`` is the tool ``NAME.VERB``, guarded, and does nothing but answer.

``POST /alerts`` takes notifications of the mint.

Run one with ``python busy_service.py orders --service-file orders.json --port 9001``.
"""

import argparse

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from arx_verifier import ArxMiddleware, open_verifier

COSTS = {  # of a token with a budget
    "payments": {"payments.refund": {"eur": "$amount"}, "*": {"eur": 0}},
    "orders": {"*": {"eur": 0}},
    "search": {"search.web": {"usd": {"reserve": "0.12"}}, "search.read": {"usd": "0.03"}, "*": {"usd": 0}},
}
LONG = 60  # characters of a query that this search engine fails at
VERBS = {
    "orders": ("get", "list", "note", "cancel"),
    "payments": ("list", "refund", "payout", "settle", "remind"),
    "search": ("web", "read", "note"),
    "deploy": ("plan", "run", "rollback"),
    "mail": ("send",),
}


async def answer(request: Request) -> JSONResponse:
    """Return the id of the decision that allowed the call."""
    grant = request.scope["arx"]
    # A search that fails commits nothing: what it reserved stays reserved.
    if request.url.path == "/web" and len((await request.json()).get("query", "")) <= LONG:
        await grant.commit_async(usd="0.08")
    return JSONResponse({"decision": grant.decision})


async def take(_: Request) -> Response:
    """Take a notification."""
    return Response(status_code=204)


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(VERBS))
    parser.add_argument("--service-file", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    verifier = open_verifier(given.service_file)
    routes = [Route(f"/{verb}", answer, methods=["POST"]) for verb in VERBS[given.name]]
    app = Starlette(routes=[*routes, Route("/alerts", take, methods=["POST"])])
    tools = {f"POST /{verb}": f"{given.name}.{verb}" for verb in VERBS[given.name]}
    guarded = ArxMiddleware(app, verifier=verifier, tools=tools, public=["POST /alerts"])
    uvicorn.run(guarded, host="127.0.0.1", port=given.port, proxy_headers=False, log_level="warning")


if __name__ == "__main__":
    main()
