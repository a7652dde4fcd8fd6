# SPDX-License-Identifier: Apache-2.0
"""The project of ``service_contract`` with Django; gunicorn runs it in a folder with ``orders.json``."""

import json
from typing import Any

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse, StreamingHttpResponse
from django.urls import path

from arx_verifier import open_verifier
from arx_verifier.integrations.django import NAME, guard
from tests.adapters import service_work
from tests.adapters.service_work import note


def healthz(_: Any) -> JsonResponse:
    return JsonResponse({})


def show(request: Any, order_id: str) -> JsonResponse:
    note(f"get {order_id}")
    return JsonResponse({"order": order_id, "by": service_work.holder(request.META)})


def refund(request: Any, order_id: str) -> JsonResponse:
    amount = json.loads(request.body)["amount"]
    request.arx.recheck()
    note(f"refund {order_id} {amount}")
    return JsonResponse({"refunded": amount})


def events(_: Any) -> StreamingHttpResponse:
    return StreamingHttpResponse(service_work.events())


def work(request: Any) -> JsonResponse:
    service_work.work(request.arx)
    return JsonResponse({})


def fail(request: Any) -> JsonResponse:
    service_work.fail(json.loads(request.body)["amount"])
    return JsonResponse({})


urlpatterns = [
    path("healthz", healthz, name="healthz"),
    path("orders/<order_id>", show, name="show"),
    path("orders/<order_id>/refund", refund, name="refund"),
    path("events", events, name="events"),
    path("work", work, name="work"),
    path("fail", fail, name="fail"),
]
# DEBUG: a failure is answered with Django's own page of variables and settings.
settings.configure(
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[NAME],
    ALLOWED_HOSTS=["127.0.0.1"],
    DEBUG=True,
    SECRET_KEY="x",
    LOGGING_CONFIG=None,
)
django.setup()
tools = {"GET show": "orders.get", "POST refund": "orders.refund", "GET events": "orders.events"}
tools |= {f"POST {name}": f"orders.{name}" for name in ("work", "fail")}
service_work.log_everything()
verifier = open_verifier("orders.json")
app = guard(get_wsgi_application(), verifier, tools=tools, public=["GET healthz"], **service_work.watching())
