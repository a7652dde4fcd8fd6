// SPDX-License-Identifier: Apache-2.0
// The bytes and the text of a token.  SPEC 2.

import { refuse } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { bytesOf } from "../names.ts";
import type { Packet } from "./chain.ts";

const PREFIX = "arx1_";
const MOST_ENDING = 320; // characters: more than the longest call takes
const TAIL = [0, 0, 6, 32]; // the ends of a caveat and of all caveats, and the header of the signature
const [LOCATION, IDENTIFIER, VERIFICATION_ID, SIGNATURE] = [1, 2, 4, 6] as const;

/** A token or a discharge, of which nothing is proven. */
export interface Parts {
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

/** A call at a token's end, read without the chain before it. */
export interface Ending {
  /** The token's text up to the call, and at most two bytes further, which are the same in each call. */
  readonly head: string;
  readonly packet: Packet;
  readonly signature: Buffer;
}

/** Return a token's last caveat if it has one of these sizes, below 2^14; its form is not checked. */
export function readEnding(text: string, sizes: readonly number[]): Ending | undefined {
  const groups = Math.max(0, Math.floor((text.length - PREFIX.length - MOST_ENDING) / 4));
  const bytes = bytesOf(text.slice(PREFIX.length + 4 * groups));
  if (bytes === undefined) return undefined;
  const end = bytes.length - 32 - TAIL.length;
  const has = (at: number, wanted: readonly number[]): boolean => wanted.every((byte, index) => bytes[at + index] === byte);
  for (const size of has(end, TAIL) ? sizes : []) {
    const header = size < 0x80 ? [2, size] : [2, (size & 0x7f) | 0x80, size >> 7];
    const start = end - size;
    if (!has(start - header.length, header)) continue;
    const head = text.slice(0, PREFIX.length + 4 * (groups + Math.ceil((start - header.length) / 3)));
    return { head, packet: { raw: bytes.subarray(start, end) }, signature: bytes.subarray(-32) };
  }
  return undefined;
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
  return { location, identifier, packets, signature };
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
