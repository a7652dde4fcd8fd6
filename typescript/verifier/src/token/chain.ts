// SPDX-License-Identifier: Apache-2.0
// The chain of a token, its links, and the keys that are derived.  SPEC 5, 9.

import { hash, hkdfSync, timingSafeEqual } from "node:crypto";
import { LIMITS } from "../limits.ts";

const GENERATOR = Buffer.concat([Buffer.from("macaroons-key-generator"), Buffer.alloc(32)]).subarray(0, 32);

const [BLOCK, SIZE] = [64, 32];
const INNER = Buffer.alloc(BLOCK + LIMITS.credential, 0x36);
const OUTER = Buffer.alloc(BLOCK + SIZE, 0x5c);

/** HMAC-SHA-256 (RFC 2104) by a key of 32 bytes, of parts of a credential: Node's own takes twice as long for them. */
export function hmac(key: Uint8Array, ...parts: readonly Uint8Array[]): Buffer {
  for (let at = 0; at < SIZE; at += 1) {
    const byte = key[at] as number;
    INNER[at] = byte ^ 0x36;
    OUTER[at] = byte ^ 0x5c;
  }
  OUTER.write(hash("sha256", INNER.subarray(0, gather(parts)), "binary"), BLOCK, "latin1");
  return sha256(OUTER);
}

export function sha256(...parts: readonly (Uint8Array | string)[]): Buffer {
  let whole = parts[0] ?? "";
  if (parts.length > 1) {
    const most = parts.reduce((sum, part) => sum + 3 * part.length, 0);
    whole = most > LIMITS.credential ? Buffer.concat(parts.map((part) => Buffer.from(part as string)))
      : INNER.subarray(BLOCK, gather(parts));
  }
  return Buffer.from(hash("sha256", whole, "binary"), "latin1"); // a Buffer of `hash` itself takes three times as long
}

/** Put parts behind a block, and return where they end. */
function gather(parts: readonly (Uint8Array | string)[]): number {
  let end = BLOCK;
  for (const part of parts) {
    if (typeof part === "string") end += INNER.write(part, end);
    else {
      INNER.set(part, end);
      end += part.length;
    }
  }
  return end;
}

/** HKDF-SHA256 without salt, 32 bytes. */
export function hkdf(key: Uint8Array, info: string): Buffer {
  return Buffer.from(hkdfSync("sha256", key, "", info, 32));
}

/** Pass a key through the key generator. */
export function derive(key: Uint8Array): Buffer {
  return hmac(GENERATOR, key);
}

/** Compare secrets in constant time. */
export function isEqual(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && timingSafeEqual(one, other);
}

/** A caveat as received; one with a verification id is a third party's. */
export interface Packet {
  readonly raw: Buffer;
  readonly verificationId?: Buffer;
}

/** Return the signature behind one more caveat. */
export function extend(signature: Uint8Array, { raw, verificationId }: Packet): Buffer {
  if (verificationId === undefined) return hmac(signature, raw);
  return hmac(signature, hmac(signature, verificationId), hmac(signature, raw));
}

/** Return the signature before each caveat, and the last one. */
export function fold(derived: Uint8Array, identifier: Uint8Array, packets: readonly Packet[]): Buffer[] {
  const signatures = [hmac(derived, identifier)];
  for (const packet of packets) signatures.push(extend(signatures.at(-1) as Buffer, packet));
  return signatures;
}

/** Return the link of a delegation: from the link before it and its hop. */
export function nextLink(link: string, hop: Uint8Array): string {
  return sha256("arx/1/link", Buffer.from(link, "base64url"), hop).subarray(0, 16).toString("base64url");
}
