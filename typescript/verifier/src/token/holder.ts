// SPDX-License-Identifier: Apache-2.0
// The keys of holders: signatures of delegations and calls, and the secret shared with an audience key.  SPEC 16.

import { createPrivateKey, createPublicKey, diffieHellman, type KeyObject, verify } from "node:crypto";
import { ed25519 } from "@noble/curves/ed25519.js";
import { bytesOf } from "../names.ts";
import { hkdf, hmac } from "./chain.ts";

const ED25519 = Buffer.from("302a300506032b6570032100", "hex");
const X25519 = Buffer.from("302a300506032b656e032100", "hex");
const X25519_PRIVATE = Buffer.from("302e020100300506032b656e04220420", "hex");

/** Return the X25519 private key of an audience key. */
export function audiencePrivateKey(audienceKey: Uint8Array): KeyObject {
  const secret = hkdf(audienceKey, "arx/1/holder");
  return createPrivateKey({ key: Buffer.concat([X25519_PRIVATE, secret]), format: "der", type: "pkcs8" });
}

/** Return the public half of an audience's X25519 key, as `aud_key` has it. */
export function publicText(key: KeyObject): string {
  return createPublicKey(key).export({ format: "der", type: "spki" }).subarray(X25519.length).toString("base64url");
}

/** Read a point in its one spelling; undefined for any other bytes, and for a point of small order. */
function pointOf(bytes: Uint8Array): InstanceType<typeof ed25519.Point> | undefined {
  try {
    const point = ed25519.Point.fromBytes(bytes, false);
    return point.isSmallOrder() ? undefined : point;
  } catch {
    return undefined;
  }
}

/** Return whether a holder signed a message; false for a key or a signature that SPEC 16.1 refuses. */
export function hasSigned(holder: string, message: Uint8Array, signature: Uint8Array): boolean {
  const key = bytesOf(holder, 32);
  if (key === undefined || signature.length !== 64) return false;
  if (pointOf(key) === undefined || pointOf(signature.subarray(0, 32)) === undefined) return false;
  // Node's equation has no factor 8, as SPEC 16.1 demands; that of the curve's library has.
  const spki = createPublicKey({ key: Buffer.concat([ED25519, key]), format: "der", type: "spki" });
  return verify(null, message, spki, signature);
}

/** Return what a holder's key and the audience's share; undefined if no proof of this holder is right. */
export function agree(audience: KeyObject, holder: string): Buffer | undefined {
  const key = bytesOf(holder, 32);
  const point = key === undefined ? undefined : pointOf(key);
  if (key === undefined || point === undefined || !point.isTorsionFree()) return undefined;
  try {
    const montgomery = ed25519.utils.toMontgomery(key);
    const publicKey = createPublicKey({ key: Buffer.concat([X25519, montgomery]), format: "der", type: "spki" });
    const shared = diffieHellman({ privateKey: audience, publicKey });
    return shared.every((byte) => byte === 0) ? undefined : shared;
  } catch {
    return undefined; // OpenSSL refuses a result of zeros
  }
}

/** Return the proof of a call, 16 bytes. */
export function callProof(shared: Uint8Array, signature: Uint8Array, audience: string, plain: string): Buffer {
  return hmac(hkdf(Buffer.concat([shared, signature]), `arx/1/bound/${audience}`), Buffer.from(plain)).subarray(0, 16);
}

/** Return the message that a holder signs: to delegate (`hop`), or for a call (`signed`). */
export function messageOf(kind: "hop" | "signed", names: readonly string[], said: Uint8Array, plain = ""): Buffer {
  return Buffer.concat([Buffer.from([`arx/1/${kind}`, ...names, ""].join("\0")), said, Buffer.from(plain)]);
}
