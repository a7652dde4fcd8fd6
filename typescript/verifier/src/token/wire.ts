// SPDX-License-Identifier: Apache-2.0
// The bytes and the text of a token.  SPEC 2.

import { refuse } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { bytesOf } from "../names.ts";
import type { Packet } from "./chain.ts";

const PREFIX = "arx1_";
const [LOCATION, IDENTIFIER, VERIFICATION_ID, SIGNATURE] = [1, 2, 4, 6] as const;

/** A token or a discharge, of which nothing is proven. */
export interface Parts {
  /** The whole, of which the other members are parts. */
  readonly body: Buffer;
  readonly location: string;
  readonly identifier: Buffer;
  readonly packets: readonly Packet[];
  readonly signature: Buffer;
}

class Cursor {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  took(byte: number): boolean {
    if (this.#bytes[this.#at] !== byte) return false;
    this.#at += 1;
    return true;
  }

  take(byte: number): void {
    if (!this.took(byte)) refuse("malformed");
  }

  field(tag: number): Buffer {
    this.take(tag);
    const length = this.#length();
    const end = this.#at + length;
    if (end > this.#bytes.length) refuse("malformed");
    const value = this.#bytes.subarray(this.#at, end);
    this.#at = end;
    return value;
  }

  has(tag: number): boolean {
    return this.#bytes[this.#at] === tag;
  }

  end(): void {
    if (this.#at !== this.#bytes.length) refuse("malformed");
  }

  #length(): number {
    const low = this.#bytes[this.#at++] ?? refuse("malformed");
    if (low < 0x80) return low;
    const high = this.#bytes[this.#at++] ?? refuse("malformed");
    if (high === 0 || high >= 0x80) refuse("malformed"); // it could be shorter, or has a third byte
    return (high << 7) | (low & 0x7f);
  }
}

/** Read a token's text, or refuse it with `malformed`. */
export function readToken(text: string): Parts {
  if (!text.startsWith(PREFIX) || text.length > LIMITS.credential) refuse("malformed");
  const body = bytesOf(text.slice(PREFIX.length)) ?? refuse("malformed");
  const cursor = new Cursor(body);
  cursor.take(2);
  const location = cursor.field(LOCATION).toString("latin1");
  const identifier = cursor.field(IDENTIFIER);
  cursor.take(0);
  const packets: Packet[] = [];
  while (!cursor.took(0)) packets.push(readPacket(cursor));
  const signature = cursor.field(SIGNATURE);
  cursor.end();
  if (signature.length !== 32 || packets.length > LIMITS.caveats) refuse("malformed");
  return { body, location, identifier, packets, signature };
}

function readPacket(cursor: Cursor): Packet {
  const located = cursor.has(LOCATION);
  if (located) cursor.field(LOCATION);
  const raw = cursor.field(IDENTIFIER);
  if (!cursor.has(VERIFICATION_ID)) {
    if (located) refuse("malformed"); // a first-party caveat has no location
    cursor.take(0);
    return { raw };
  }
  const verificationId = cursor.field(VERIFICATION_ID);
  cursor.take(0);
  return { raw, verificationId };
}
