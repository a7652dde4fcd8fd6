# SPDX-License-Identifier: Apache-2.0
"""Answers of an upstream with a credential in them, such as one that echoes its request: they are not passed on.

What is found is a secret as it was sent, and as JSON or a URL writes it.  Another coding of it is not found.
"""

import json
from collections.abc import AsyncIterator, Iterable
from typing import Final
from urllib.parse import quote

from arx_caps.credentials.secret_source import Secret
from arx_caps.gateway.base.upstream_answer import UpstreamAnswer, UpstreamError

_SHORTEST: Final = 8  # characters: a shorter text is in answers by chance


class _Form(bytes):
    """A spelling of a secret."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "b'…'"

    def begun_in(self, data: bytes) -> int:
        """Return how many bytes at the end of some data may begin this spelling."""
        tail = data[-len(self) + 1 :]
        place = tail.find(self[:1])
        while place >= 0 and not self.startswith(tail[place:]):
            place = tail.find(self[:1], place + 1)
        return len(tail) - place if place >= 0 else 0


class Leaks:
    """Finds the secrets of one upstream in what it answers.

    Args:
        name: The upstream's name, for errors.
        secrets: Its secrets.
    """

    def __init__(self, name: str, secrets: Iterable[Secret]) -> None:
        self._name = name
        long = [secret for secret in secrets if len(secret) >= _SHORTEST]
        in_json = [json.dumps(secret)[1:-1] for secret in long]
        texts = (*long, *in_json, *(text.replace("/", "\\/") for text in in_json), *(quote(each, "") for each in long))
        self._forms = tuple({_Form(text.encode()) for text in texts})

    def __bool__(self) -> bool:
        """Whether there is something to find."""
        return bool(self._forms)

    def are_in(self, data: bytes) -> bool:
        """Return whether some data have one of the secrets.

        Args:
            data: The data.
        """
        return any(data.find(form) >= 0 for form in self._forms)

    def error(self) -> UpstreamError:
        """Return the error of an answer with a secret."""
        return UpstreamError(f"upstream {self._name} answered with its credential", sent=True)

    def checked(self, answer: UpstreamAnswer) -> UpstreamAnswer:
        """Return an answer whose body ends with an error before a secret.

        Args:
            answer: The answer.

        Raises:
            UpstreamError: A header has one.
        """
        if not self._forms:
            return answer
        if self.are_in(b"\n".join(part for pair in answer.raw_headers for part in pair)):
            raise self.error()
        return _Checked(answer, self)

    async def passed(self, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the parts of a body as they come, without what may become a secret in the next one.

        Args:
            parts: The parts.

        Raises:
            UpstreamError: A secret is in them; no byte of it was yielded.
        """
        kept = b""
        async for part in parts:
            data = kept + part
            if self.are_in(data):
                del data, part  # what collects the variables of an exception would find it
                raise self.error()
            end = len(data) - max(form.begun_in(data) for form in self._forms)
            kept = data[end:]
            if end:
                yield data[:end]
        if kept:
            yield kept


class _Checked:
    """An answer whose body is looked at."""

    def __init__(self, answer: UpstreamAnswer, leaks: Leaks) -> None:
        self.status: int = answer.status
        self.content_type: str = answer.content_type
        self.raw_headers: Iterable[tuple[bytes, bytes]] = answer.raw_headers
        self._answer, self._leaks = answer, leaks

    @property
    def content(self) -> "_Checked":
        """What has ``iter_any``."""
        return self

    def iter_any(self) -> AsyncIterator[bytes]:
        """Yield the body in parts."""
        return self._leaks.passed(self._answer.content.iter_any())
