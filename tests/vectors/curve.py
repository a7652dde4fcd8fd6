# SPDX-License-Identifier: Apache-2.0
"""Ed25519 by its definition (RFC 8032 5.1), slow and plain: signatures that no library makes (SPEC 16.1)."""

import hashlib
from typing import Final

P: Final = 2**255 - 19
ORDER: Final = 2**252 + 27742317777372353535851937790883648493
D: Final = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int]
BASE: Final[Point] = (
    15112221349535400772501151409588531511454012693041857206046113283949847762202,
    46316835694926478169428394003475163141307993866256225615783033603165251855960,
)
SECOND_ORDER: Final[Point] = (0, P - 1)  # the point whose double is the neutral element


def add(one: Point, other: Point) -> Point:
    """RFC 8032 5.1.4, in affine coordinates."""
    (x1, y1), (x2, y2) = one, other
    product = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P
    return x, y


def times(number: int, point: Point) -> Point:
    """A multiple of a point."""
    total: Point = (0, 1)
    while number:
        if number & 1:
            total = add(total, point)
        point, number = add(point, point), number >> 1
    return total


def written(point: Point) -> bytes:
    """RFC 8032 5.1.2."""
    x, y = point
    return ((x & 1) << 255 | y).to_bytes(32, "little")


def scalar(seed: bytes) -> int:
    """RFC 8032 5.1.5."""
    return (int.from_bytes(hashlib.sha512(seed).digest()[:32], "little") & ((1 << 254) - 8)) | 1 << 254


def sign(
    seed: bytes,
    message: bytes,
    *,
    added_to_r: Point = (0, 1),
    added_to_a: Point = (0, 1),
    beyond: bool = False,
    zero: bool = False,
) -> tuple[bytes, bool]:
    """RFC 8032 5.1.6, with other points on request.

    Args:
        seed: The private key.
        message: The message.
        added_to_r: A point that is added to R.
        added_to_a: A point that is added to the public key.
        zero: Whether R is the neutral element, but for what is added to it.
        beyond: Whether the order is added to S, which then is another spelling of the same number.

    Returns:
        The signature, and whether the number k of 5.1.7 is even.
    """
    secret = scalar(seed)
    nonce = 0 if zero else int.from_bytes(hashlib.sha512(b"arx vectors" + seed + message).digest(), "little") % ORDER
    first = written(add(times(nonce, BASE), added_to_r))
    key = written(add(times(secret, BASE), added_to_a))
    k = int.from_bytes(hashlib.sha512(first + key + message).digest(), "little") % ORDER
    s = (nonce + k * secret) % ORDER + (ORDER if beyond else 0)
    return first + s.to_bytes(32, "little"), k % 2 == 0
