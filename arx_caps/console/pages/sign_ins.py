# SPDX-License-Identifier: Apache-2.0
"""*Sign-ins*: who is signed in to the console, by what, until when, and its end."""

from typing import Final

from starlette.responses import Response

from arx_caps.console.visit import Page, Visit
from arx_caps.mint.api.routes.operations.console import end_sign_in, list_sign_ins

HOME: Final = "/console/sign-ins"
SHOWN: Final = 50


def show_sign_ins(visit: Visit) -> Response:
    """List the sign-ins that go on."""
    found = visit.call(list_sign_ins, query={"limit": SHOWN, "after": visit.query.get("after")})
    return visit.render("sign_ins.html", title="Sign-ins", command="arx console list", found=found)


def end_one(visit: Visit) -> Response:
    """End a sign-in."""
    visit.call(end_sign_in, path={"console": visit.request.path_params["console"]})
    return visit.redirect(HOME)


PAGES: Final = (Page("GET", HOME, show_sign_ins), Page("POST", f"{HOME}/{{console}}/end", end_one))
