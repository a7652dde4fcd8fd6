# SPDX-License-Identifier: Apache-2.0
"""A caller could have a view of Flask or Django take a default for an argument that a rule limits.

The guard judges JSON and multipart forms, whichever the caller sends.  A view that reads a form found none in a JSON
body, and ``get_json(silent=True)`` of Flask is None for a form: both took their defaults, which no rule saw.
"""

import os
import subprocess

import pytest

from tests.routes.environments import ROOT, VERSIONS, prepare

pytestmark = [pytest.mark.install, pytest.mark.spec("8.4")]
FLASK = """
from flask import Flask, request
from arx_verifier.integrations.flask import guard

app = Flask("orders")
for name, read in {
    "json": lambda: (request.get_json(silent=True) or {}).get("to", "default"),
    "form": lambda: request.form.get("to", "default"),
    "values": lambda: request.values.get("to", "default"),
    "copy": lambda: request.form.copy().get("to", "default"),
    "other": lambda: request.form.get("note", "none"),
}.items():
    app.add_url_rule(f"/{name}", name, read, methods=["POST"])
guard(app, realm.verifier, tools=dict.fromkeys(app.view_functions.keys() - {"static"}, "orders.pay"))
"""
DJANGO = """
import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from arx_verifier.integrations.django import NAME, guard

settings.configure(ROOT_URLCONF="__main__", MIDDLEWARE=[NAME], ALLOWED_HOSTS=["x"], LOGGING_CONFIG=None)
django.setup()
urlpatterns = [
    path(name, lambda request, read=read: HttpResponse(read(request)), name=name)
    for name, read in {
        "form": lambda request: request.POST.get("to", "default"),
        "values": lambda request: request.POST.copy().get("to", "default"),
        "other": lambda request: request.POST.get("note", "none"),
    }.items()
]
tools = dict.fromkeys(["POST form", "POST values", "POST other"], "orders.pay")
app = guard(get_wsgi_application(), realm.verifier, tools=tools)
"""
BEFORE = """
import hashlib, io, sys, time
from arx_verifier import CallSigner, HttpCall, Rule
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token.call_proof import http_fields

realm = UnsafeTestRealm("orders")
signer = CallSigner(realm.caller(Rule(tool="orders.pay", args={"to": "acme"})).macaroon, "orders")
FORM = b'--b\\r\\nContent-Disposition: form-data; name="to"\\r\\n\\r\\nacme\\r\\n--b--\\r\\n'
"""
AFTER = """
for kind, body in (("application/json", b'{"to":"acme"}'), ("multipart/form-data; boundary=b", FORM)):
    for name in sys.argv[1:]:
        fields = http_fields(HttpCall("POST", f"/{name}", hashlib.sha256(body).digest()))
        environ = {"REQUEST_METHOD": "POST", "PATH_INFO": f"/{name}", "RAW_URI": f"/{name}", "QUERY_STRING": ""}
        environ |= {"SERVER_NAME": "x", "SERVER_PORT": "80", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(body)}
        environ |= {"CONTENT_TYPE": kind, "CONTENT_LENGTH": str(len(body))}
        environ["HTTP_AUTHORIZATION"] = f"Bearer {signer.sign(fields, time.time_ns() // 1_000_000)}"
        answer = app(environ, lambda status, headers, *_: print(status[:3], end=" ") or print)
        read = b"".join(answer).decode()
        print("malformed" if "malformed_request" in read else read)
        answer.close()
"""
REFUSED, READ, NONE = "400 malformed", "200 acme", "200 none"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "script", "views", "expected"),
    [
        ("flask", FLASK, "json form values copy other", [READ, *[REFUSED] * 3, NONE, REFUSED, *[READ] * 3, NONE]),
        ("django", DJANGO, "form values other", [REFUSED, REFUSED, NONE, READ, READ, NONE]),
    ],
)
def test_a_view_takes_no_default_for_what_was_judged(
    framework: str, script: str, views: str, expected: list[str]
) -> None:
    """A JSON body and then a form, for each view; what was not sent has its default."""
    words = [
        str(prepare(framework, VERSIONS[framework])),
        "-W",
        "ignore",
        "-c",
        BEFORE + script + AFTER,
        *views.split(),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == expected, done.stderr[-2000:]
