# SPDX-License-Identifier: Apache-2.0
"""Ask a witness to cosign a checkpoint (c2sp.org/tlog-witness).  LOG 1.6.

``cosigners`` decides whether a log is published without the cosignature.
"""

from collections.abc import Callable, Sequence
from typing import Final

import httpx

from arx_caps.audit.merkle.checkpoint import Checkpoint
from arx_caps.audit.merkle.errors import NoteError, TamperedError, WitnessError
from arx_caps.audit.merkle.note import Note, Signature, VerifierKey, decimal, signature_lines
from arx_caps.audit.witness.witness import Request
from arx_caps.http.client import no_answer, open_client
from arx_verifier.enforcement import bounded_body
from arx_verifier.errors import SettingsError

TIMEOUT_S: Final = 5.0
MAX_ANSWER_BYTES: Final = 64 * 1024


def ask_witness(
    url: str,
    key: VerifierKey,
    note: Note,
    prove: Callable[[int], Sequence[bytes]],
    *,
    old: int = 0,
    client: httpx.Client | None = None,
    ca: str | None = None,
) -> Signature:
    """Return a witness's cosignature of a checkpoint, verified.

    Args:
        url: The witness's URL, without a final slash.
        key: The witness's key.
        note: The checkpoint, signed by its log.
        prove: Returns the consistency proof from an older size to the checkpoint's.
        old: The size that it cosigned last, as far as the caller knows; a wrong one costs one more request.
        client: The HTTP client; a new one when omitted.
        ca: File of a further authority for TLS, for a new client.

    Returns:
        The cosignature: ``note.signed`` adds it.

    Raises:
        WitnessError: The witness did not answer, or did not cosign.
    """
    size = Checkpoint.parse(note.text).size
    if client is None:
        # The new client ignores the environment's proxies: a mint connects to its witness directly.
        with _open(url, key.name, ca) as fresh:
            return ask_witness(url, key, note, prove, old=old, client=fresh)
    old = min(old, size)
    for _ in range(2):
        status, text = _post(client, f"{url}/add-checkpoint", Request(old, tuple(prove(old)), note).encode(), key.name)
        if status == httpx.codes.OK:
            return _signature(text, key, note)
        if status != httpx.codes.CONFLICT:
            break
        # It has cosigned another size than `old`: this process has restarted, or another mint has asked it.
        old = _size(text, key.name)
        if old > size:
            raise WitnessError(
                f"{key.name} has seen {old} records of this log, which has only {size}: it was rolled back"
            )
    raise WitnessError(f"{key.name} did not cosign: {status} {text.strip()[:200]!r}")


def _post(client: httpx.Client, url: str, body: bytes, name: str) -> tuple[int, str]:
    try:
        with client.stream("POST", url, content=body, headers={"Content-Type": "text/plain"}) as answer:
            # Bounded while it is read: the witness belongs to another party.
            raw = bounded_body.read_parts(answer.iter_bytes(), MAX_ANSWER_BYTES)
            return answer.status_code, raw.decode("utf-8", "replace")
    except bounded_body.BodyTooLongError as error:
        raise WitnessError(f"{name} answered with more than {MAX_ANSWER_BYTES // 1024} KiB") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise WitnessError(f"{name} does not answer: {no_answer(error, url)}") from error


def _open(url: str, name: str, ca: str | None) -> httpx.Client:
    try:
        return open_client(url, timeout=TIMEOUT_S, ca=ca)
    except SettingsError as error:
        raise WitnessError(f"{name} cannot be asked: {error}") from error


def _size(text: str, name: str) -> int:
    try:
        return decimal(text.removesuffix("\n"), "a size")
    except NoteError as error:
        raise WitnessError(f"{name} answered a conflict without a size") from error


def _signature(text: str, key: VerifierKey, note: Note) -> Signature:
    try:
        for line in signature_lines(text):
            # Lines of other keys are skipped, as the protocol lets a witness sign with several.
            if key.owns(line):
                # Verified here: a bad line would make the whole note invalid for every reader.
                key.check(note.text, line)
                return line
    except (NoteError, TamperedError) as error:
        raise WitnessError(f"{key.name} answered with an invalid signature: {error}") from error
    raise WitnessError(f"{key.name} answered without a signature of its key")
