# SPDX-License-Identifier: Apache-2.0
"""`git http-backend` as a service, and a front that signs what an unmodified git sends, before the gateway."""

import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from arx_caps.gateway.base.settings import UpstreamTerms
from arx_caps.gateway.catalogue.routes import CatalogueRoutes, head_of
from arx_caps.gateway.catalogue.terms import RouteTerms, read_catalogue
from arx_caps.gateway.http.door import HttpDoor
from arx_caps.gateway.upstream.forwarder import Forwarder
from arx_verifier import RequestError
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from tests.adapters.asgi_server import serving

AUDIENCE: Final = "github"
QUIET = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}
_ABOUT: Final = {"NAME": "a@b", "EMAIL": "a@b", "DATE": "2026-01-01T00:00:00Z"}  # one date: each run has the same ids
QUIET |= {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in _ABOUT.items()}


def git(folder: Path, *words: str, fails: bool = False, **config: str) -> str:
    """Run git in a folder; return what it wrote to both streams."""
    options = [each for name, value in config.items() for each in ("-c", f"{name.replace('_', '.')}={value}")]
    done = subprocess.run(
        ["git", *options, *words], cwd=folder, env=QUIET, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def repository(folder: Path, name: str = "acme/app") -> Path:
    """Make a bare repository with a branch `main`, and a clone of it with one commit more; return the clone."""
    bare, clone = folder / "served" / f"{name}.git", folder / "clone"
    bare.mkdir(parents=True)
    git(bare, "init", "--bare", "--quiet", "--initial-branch=main", ".")
    git(bare, "config", "http.receivepack", "true")
    git(folder, "clone", "--quiet", str(bare), str(clone))
    for text in ("one", "two"):
        (clone / "file").write_text(text, "utf-8")
        git(clone, "checkout", "--quiet", "-B", "main")
        git(clone, "add", "file")
        git(clone, "commit", "--quiet", "-m", text)
        if text == "one":
            git(clone, "push", "--quiet", "origin", "main")
    return clone


def refs_of(bare: Path) -> dict[str, str]:
    """Return the object id of each ref of a repository."""
    lines = git(bare, "for-each-ref", "--format=%(refname) %(objectname)").split("\n")
    return dict(line.split(" ") for line in lines if line)


async def _live(receive: Any, send: Any, client: httpx.AsyncClient | None = None) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    if client is not None:
        await client.aclose()
    await send({"type": "lifespan.shutdown.complete"})


class Front:
    """The ASGI application between an unmodified client and the gateway: it signs what each request means.

    Args:
        url: The URL of the upstream at the gateway.
        routes: The upstream's catalogue.
        caller: Signs.
    """

    def __init__(self, url: str, routes: Mapping[str, RouteTerms], caller: UnsafeCaller) -> None:
        self._url, self._routes, self._caller = url, CatalogueRoutes(routes), caller
        self._client = httpx.AsyncClient(trust_env=False, timeout=300)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        if scope["type"] == "lifespan":
            await _live(receive, send, self._client)
            return
        terms = self._routes.find(scope)
        left = ("host", "connection", "authorization", "transfer-encoding", "accept-encoding")
        headers = {name.decode(): value.decode() for name, value in scope["headers"] if name.decode() not in left}
        auth: Any = self._caller
        content: Any = _rest(b"", True, receive)
        if terms is not None and terms.is_streamed:
            auth, (head, more) = None, await head_of(terms)(receive)
            content, meant = _rest(head, more, receive), None
            with contextlib.suppress(RequestError):  # the gateway refuses it
                meant = self._routes(scope, head)
            tool, args = meant or ("unknown", {})
            headers["authorization"] = f"Bearer {self._caller.token(tool, **args)}"
        else:
            content = b"".join([part async for part in content])
            headers.pop("content-length", None)
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        request = self._client.build_request(
            scope["method"], self._url + target.decode(), headers=headers, content=content
        )
        answer = await self._client.send(request, stream=True, auth=auth)
        kept = [(name.lower(), value) for name, value in answer.headers.raw if name.lower() not in (b"connection",)]
        await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
        async for part in answer.aiter_raw():
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        await answer.aclose()


async def _rest(head: bytes, more: bool, receive: Any) -> AsyncIterator[bytes]:
    yield head
    while more:
        message = await receive()
        more = message.get("more_body", False)
        yield message.get("body", b"")


@contextlib.contextmanager
def front(url: str, caller: UnsafeCaller, catalogue: str = "git", audience: str = AUDIENCE) -> Iterator[str]:
    """Serve a front before an upstream of a gateway; yield its URL."""
    routes = read_catalogue(catalogue, Path(), audience).routes
    with serving(Front(url, routes, caller), log_level="critical") as port:
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def catalogue_door(realm: UnsafeTestRealm, folder: Path, name: str, app: Any, **more: Any) -> Iterator[str]:
    """Serve a service, and the gateway's door before it with a catalogue; yield the URL of the door."""
    with serving(app, log_level="critical") as behind:
        table = {"audience": AUDIENCE, "url": f"http://127.0.0.1:{behind}", "catalogue": name, **more}
        terms = msgspec.convert(table, UpstreamTerms)
        forwarder = Forwarder(AUDIENCE, terms, folder)
        verifier = realm.verifier.within(None, terms.effects, terms.marks)
        door = HttpDoor(verifier, terms, forwarder, read_catalogue(name, folder, AUDIENCE).routes)

        async def served(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "lifespan":
                await door({**scope, "root_path": f"/{AUDIENCE}"}, receive, send)
                return
            await receive()
            forwarder.open()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await forwarder.close()
            await send({"type": "lifespan.shutdown.complete"})

        with serving(served, log_level="critical") as port:
            yield f"http://127.0.0.1:{port}/{AUDIENCE}"
