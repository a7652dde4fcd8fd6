# SPDX-License-Identifier: Apache-2.0
"""A middleware of Django could give the view another parameter of the path than the one that was judged.

``process_view`` gets the very dictionary that the view gets, and the texts that were judged came from another one.
"""

import os
import subprocess

import pytest

from tests.routes.environments import ROOT, VERSIONS, prepare

pytestmark = [pytest.mark.install, pytest.mark.spec("8.4")]
SCRIPT = """
import hashlib, io, sys, time
import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from arx_verifier import CallSigner, HttpCall, Rule
from arx_verifier.integrations.django import NAME, guard
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token.call_proof import http_fields

class Changing:
    def __init__(self, get_response):
        self.get_response = get_response
    def __call__(self, request):
        return self.get_response(request)
    def process_view(self, request, view, args, kwargs):
        if "HTTP_X_CHANGE" in request.META:
            kwargs.update(eval(request.META["HTTP_X_CHANGE"]))

def show(request, **kwargs):
    return HttpResponse(f"ran {kwargs}")

urlpatterns = [path("orders/<int:order_id>", show, name="order")]
settings.configure(
    ROOT_URLCONF="__main__", MIDDLEWARE=["__main__.Changing", NAME], ALLOWED_HOSTS=["x"], LOGGING_CONFIG=None
)
django.setup()
realm = UnsafeTestRealm("orders")
app = guard(get_wsgi_application(), realm.verifier, tools={"GET order": "orders.get"})
signer = CallSigner(realm.caller(Rule(tool="orders.get", args={"order_id": 7})).macaroon, "orders")
for change in (None, "{'order_id': 8}", "{'order_id': '07'}", "{'amount': 5000}"):
    fields = http_fields(HttpCall("GET", "/orders/7", hashlib.sha256(b"").digest()))
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/orders/7", "RAW_URI": "/orders/7", "QUERY_STRING": ""}
    environ |= {"SERVER_NAME": "x", "SERVER_PORT": "80", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO()}
    environ["HTTP_AUTHORIZATION"] = f"Bearer {signer.sign(fields, time.time_ns() // 1_000_000)}"
    if change:
        environ["HTTP_X_CHANGE"] = change
    answer = app(environ, lambda status, headers, *_: print(status[:3], end=" ") or print)
    print(b"".join(answer).decode()[:30])
    answer.close()
"""


@pytest.mark.slow
def test_the_view_gets_what_was_judged() -> None:
    """Another value, another spelling and a further parameter are refused."""
    words = [str(prepare("django", VERSIONS["django"])), "-W", "ignore", "-c", SCRIPT]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    first, *changed = done.stdout.splitlines()
    assert first == "200 ran {'order_id': 7}", done.stderr[-2000:]
    assert [line[:3] for line in changed] == ["400", "400", "400"], done.stdout
