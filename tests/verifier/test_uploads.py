# SPDX-License-Identifier: Apache-2.0
"""The arguments of a multipart body: one form of it is read, every other one refused."""

import hashlib
import html
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier import RequestError
from arx_verifier.enforcement.base.uploads import MAX_PARTS, read_multipart

pytestmark = pytest.mark.spec("8.4")

KIND = b"multipart/form-data; boundary=xyz"
FIELD = b'Content-Disposition: form-data; name="note"\r\n\r\nhello'
FILE = b'Content-Disposition: form-data; name="file"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\nabc'


def body(*parts: bytes, end: bytes = b"--\r\n") -> bytes:
    return b"".join(b"--xyz\r\n" + part + b"\r\n" for part in parts) + b"--xyz" + end


def read(raw: bytes, kind: bytes = KIND) -> Any:
    """The arguments; None if the body is refused."""
    try:
        return read_multipart(kind, raw)
    except RequestError:
        return None


def test_fields_and_files_are_arguments() -> None:
    """A field is text; of a file come digest, size and type, and not its name."""
    file = {"digest": f"sha256:{hashlib.sha256(b'abc').hexdigest()}", "size": 3, "content_type": "text/plain"}
    assert read(body(FIELD, FILE)) == {"note": "hello", "file": file}
    assert read(body(FIELD, end=b"--")) == {"note": "hello"}
    assert read(body(FIELD), b'Multipart/Form-Data;boundary="xyz"') == {"note": "hello"}
    request = httpx2.Request("POST", "http://x", data={"note": "ü"}, files={"file": ("ä.txt", b"abc", "text/plain")})
    request.read()
    sent = read(request.content, request.headers["content-type"].encode())
    assert sent == {"note": "ü", "file": file}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"--xyz--",
        body(),
        b"preamble\r\n" + body(FIELD),
        body(FIELD) + b"epilogue",
        body(FIELD).replace(b"\r\n", b"\n"),
        body(FIELD, FIELD),
        body(FIELD + b"--xyz"),
        body(FIELD + b"\r\n--xyzz"),
        body(FIELD, end=b""),
        body(FIELD.replace(b"note", b"no%22te")),
        body(FIELD.replace(b"note", b'no\\"te')),
        body(FIELD.replace(b'"note"', b"note")),
        body(FIELD.replace(b'"note"', b'"note"; name="other"')),
        body(FIELD.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n")),
        body(FIELD.replace(b"\r\n\r\n", b"\r\n folded: x\r\n\r\n")),
        body(FIELD.replace(b"\r\n\r\n", b"\r\nContent-Type: text/plain; charset=utf-7\r\n\r\n")),
        body(FIELD.replace(b"hello", b"\xff")),
        body(FILE.replace(b'filename="a.txt"', b"filename*=utf-8''a.txt")),
        body(FILE.replace(b'filename="a.txt"', b'filename=""')),
        body(FILE.replace(b'filename="a.txt"', b'filename="&#1;"')),  # HTML has no such character: no name is left
        body(FILE.replace(b'; filename="a.txt"', b"").replace(b"text/plain", b"image/png")),
        body(FILE.replace(b"text/plain", b"text/plain\r\nContent-Type: image/png")),
        body(FIELD, FIELD.replace(b'"note"', b'" note"')),
        body(FIELD, FIELD.replace(b'"note"', '"note\u2028"'.encode())),
        body(FIELD.replace(b"note", b"_charset_")),
        body(FILE.replace(b"a.txt", b"..")),
        body(FILE.replace(b"a.txt", b"a/")),
        body(FILE.replace(b"a.txt", b"&#47")),
        body(FILE.replace(b"a.txt", "a/\u2028".encode())),
        body(*(FIELD.replace(b"note", str(number).encode()) for number in range(MAX_PARTS + 1))),
    ],
)
def test_any_other_form_is_refused(raw: bytes) -> None:
    """Two parsers could see different fields in it."""
    assert read(raw) is None


NEW = "\U0001f600"  # of Unicode 6.1: a parser drops it if its Python is older than the character


@pytest.mark.parametrize(
    ("filename", "is_kept"),
    [
        *((name, True) for name in ("a.txt", "\u0444\u043e\u0442\u043e", "\u5199\u771f", f"{NEW}.png", f"a/{NEW}b")),
        *((name, False) for name in (NEW, f"a/{NEW}", f"a\\{NEW}", f"..{NEW}", "\u200b", "a\u0085b", "\u0378")),
    ],
)
def test_each_parser_keeps_the_file(filename: str, is_kept: bool) -> None:
    """The name has a character behind its last slash that every version of Python can print."""
    assert (
        read(body(FILE.replace(b"a.txt", html.escape(filename).replace("\\", "&bsol;").encode()))) is not None
    ) == is_kept


@pytest.mark.parametrize("name", [NEW, "\u0378", "\ua7cb", "\u200b"])
def test_the_name_of_a_field_is_judged_alike_on_each_version(name: str) -> None:
    """Whether Python knows a character does not matter."""
    assert read(body(FIELD.replace(b"note", name.encode()))) == {name: "hello"}


@pytest.mark.parametrize(
    "kind",
    [
        b"multipart/form-data",
        b"multipart/mixed; boundary=xyz",
        b"multipart/form-data; boundary=xyz; charset=utf-7",
        b"multipart/form-data; boundary=abc; boundary=xyz",
        b"multipart/form-data; boundary=xyz,\nmultipart/form-data; boundary=abc",
    ],
)
def test_one_boundary_is_declared(kind: bytes) -> None:
    """And nothing else."""
    assert read(body(FIELD), kind) is None


@pytest.mark.parametrize("mark", "'()+,./:=?!;\\%")
@pytest.mark.parametrize("quote", ["", '"'])
def test_no_parser_ends_the_boundary_earlier(mark: str, quote: str) -> None:
    """Of ``a:b`` without quotes, Werkzeug reads ``a``: what is one field here has another field in it there."""
    boundary = f"a{mark}b"
    raw = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="note"\r\n\r\n'
        '\r\n--a\r\nContent-Disposition: form-data; name="amount"\r\n\r\n5000\r\n--a--\r\n'
        f"\r\n--{boundary}--\r\n"
    )
    assert read(raw.encode(), f"multipart/form-data; boundary={quote}{boundary}{quote}".encode()) is None


@given(st.dictionaries(st.text("abcß ", min_size=1).filter(lambda name: name == name.strip()), st.binary(), min_size=1))
def test_every_file_is_read_as_it_was_sent(files: dict[str, bytes]) -> None:
    """Whatever its bytes are."""
    request = httpx2.Request("POST", "http://x", files={name: ("f", data) for name, data in files.items()})
    request.read()
    found = read(request.content, request.headers["content-type"].encode())
    assert {name: each["digest"] for name, each in found.items()} == {
        name: f"sha256:{hashlib.sha256(data).hexdigest()}" for name, data in files.items()
    }


@given(st.lists(st.sampled_from([b"--xyz", b"\r\n", b"--", b"\n", FIELD, FILE, b'name="x"', b"a"])).map(b"".join))
def test_any_body_is_read_or_refused(raw: bytes) -> None:
    """No body ends in anything but arguments or a ``RequestError``."""
    assert read(raw) is None or raw.startswith(b"--xyz\r\n")
