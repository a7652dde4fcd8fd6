// SPDX-License-Identifier: Apache-2.0
// The bytes and the text of a token.  SPEC 2.

import { refuse } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { bytesOf } from "../names.ts";
import type { Packet } from "./chain.ts";

const PREFIX = "arx1_";
const MOST_ENDING = 320; // characters: more than the longest call takes
const TAIL = [0, 0, 6, 32]; // the ends of a caveat and of all caveats, and the header of the signature
const [IDENTIFIER, VERIFICATION_ID] = [2, 4];
// The tags of a location and an identifier, of each caveat, and of the signature; 0 is an end.
const FORM = /^1 2 0 (?:(?:2|(?:1 )?2 4) 0 )*0 6$/;

type Field = readonly [tag: number, value: Buffer];

/** A token or a discharge, of which nothing is proven. */
export interface Parts {
  readonly location: string;
  readonly identifier: Buffer;
  readonly packets: readonly Packet[];
  readonly signature: Buffer;
}

/** Return tag and value of each field behind the version, or refuse bytes that are no fields; an end has the tag 0. */
function readFields(bytes: Buffer): Field[] {
  const fields: Field[] = [];
  let at = 1;
  const next = (): number => bytes[at++] ?? refuse("malformed");
  while (at < bytes.length) {
    const tag = next();
    let length = tag === 0 ? 0 : next();
    if (length >= 0x80) {
      const high = next();
      if (high === 0 || high >= 0x80) refuse("malformed"); // it could be shorter, or has a third byte
      length = (high << 7) | (length & 0x7f);
    }
    fields.push([tag, bytes.subarray(at, at + length)]);
    at += length;
  }
  if (at > bytes.length) refuse("malformed"); // or a signature could have another length before its 32 bytes
  return fields;
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
  const has = (at: number, wanted: readonly number[]): boolean => wanted.every((byte, to) => bytes[at + to] === byte);
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
  const bytes = bytesOf(text.slice(PREFIX.length)) ?? refuse("malformed");
  const fields = readFields(bytes);
  if (bytes[0] !== 2 || !FORM.test(fields.map(([tag]) => tag).join(" "))) refuse("malformed");
  const [[, location], [, identifier]] = fields as [Field, Field];
  const [, signature] = fields.at(-1) as Field;
  const packets: Packet[] = [];
  for (const [tag, value] of fields.slice(2)) {
    if (tag === IDENTIFIER) packets.push({ raw: value });
    else if (tag === VERIFICATION_ID) packets.push({ ...(packets.pop() as Packet), verificationId: value });
  }
  if (signature.length !== 32 || packets.length > LIMITS.caveats) refuse("malformed");
  return { location: location.toString("latin1"), identifier, packets, signature };
}
