// SPDX-License-Identifier: Apache-2.0
// The chain of a token, its links, and the keys that are derived.  SPEC 5, 9.

import { createHash, createHmac, hkdfSync, timingSafeEqual } from "node:crypto";

const GENERATOR = Buffer.concat([Buffer.from("macaroons-key-generator"), Buffer.alloc(32)]).subarray(0, 32);

export function hmac(key: Uint8Array, ...parts: readonly (Uint8Array | string)[]): Buffer {
  const mac = createHmac("sha256", key);
  for (const part of parts) mac.update(part);
  return mac.digest();
}

export function sha256(...parts: readonly (Uint8Array | string)[]): Buffer {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
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
