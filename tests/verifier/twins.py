# SPDX-License-Identifier: Apache-2.0
"""Each function that has a compiled twin, values to call it with, and what it says of them."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from arx_verifier import (
    canonical,
    chain,
    codec,
    compiled,
    digests,
    proofs,
)

BYTES = st.binary(max_size=300)
KEYS = st.binary(min_size=32, max_size=32) | BYTES
ODD = st.none() | st.integers() | st.text(max_size=8) | st.binary(max_size=8).map(bytearray) | st.just(())
TEXTS = (
    st.binary(max_size=60).map(codec.text_of)
    | st.text("ABCDQRwxyz0189-_+/=~\n \u00e9\u20ac", max_size=12)
    | st.builds(
        lambda raw, end: codec.text_of(raw) + end, st.binary(max_size=900), st.sampled_from(["", "A", "=", "+"])
    )
)
THIRD = st.builds(codec.ThirdParty, st.none() | BYTES, BYTES, BYTES)
PACKETS = st.builds(
    codec.Packets,
    st.none() | BYTES,
    BYTES,
    st.lists(BYTES | THIRD, max_size=66).map(tuple),
    st.binary(min_size=32, max_size=32),
)
TWINS: dict[str, Callable[..., Any]] = {
    "base64_of": codec.base64_of,
    "bytes_of": codec.bytes_of,
    "read_text": codec.read_text,
    "appended": chain.appended,
    "walk": codec.walk,
    "extend": chain.extend,
    "fold": chain.fold,
    "states_of": chain.states_of,
    "ends_in": chain.ends_in,
    "next_link": chain.next_link,
    "split_call": proofs.split_call,
    "tool_digest": proofs.tool_digest,
    "salted": digests.salted,
    "is_flat": canonical.is_flat,
}


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns, or the kind and text of what it raises."""
    try:
        return function(*args)
    except Exception as error:  # whatever it is, both must do it
        return type(error), str(error)


def agree(name: str, *args: Any) -> Any:
    """Hold the twin to the reference, and return what both say."""
    said = outcome(TWINS[name], *args)
    assert said == outcome(compiled.REFERENCES[name], *args)
    return said
