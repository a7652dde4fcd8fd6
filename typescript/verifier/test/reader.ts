// SPDX-License-Identifier: Apache-2.0
/** Reads a segment, as a shipper does: its records, its damage, and where it may be cut.  SPEC 15.3. */

import { crc32 } from "node:zlib";
import { AuditError } from "../src/errors.ts";
import { MAX_RECORD_BYTES } from "../src/journal/record.ts";
import {
  BODY_AT, checksumOf, HEADER_BYTES, LENGTHS_AT, MAGIC, type SegmentHeader, STATE_AT, storedSize,
} from "../src/journal/segment.ts";

const RECORD_HEADER = 8;
const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const BOOT = /^[0-9a-z]{1,64}$/;
const STATES = ["open", "closed", "ended"];

export interface ReadSegment {
  readonly header: SegmentHeader | null;
  readonly state: string | null;
  /** Sequence and payload; null for one that is lost. */
  readonly records: readonly (readonly [number, Buffer | null])[];
  /** The place of each damage, bytes. */
  readonly damage: readonly number[];
  /** The offset after the last record of an open segment without damage; else null. */
  readonly end: number | null;
}

export function readSegment(raw: Buffer): ReadSegment {
  let header: SegmentHeader;
  try {
    header = readHeader(raw);
  } catch (error) {
    if (!(error instanceof AuditError)) throw error;
    return { header: null, state: null, records: [], damage: [0], end: null };
  }
  const records: [number, Buffer | null][] = [];
  const damage: number[] = [];
  let offset = HEADER_BYTES;
  let known = true; // where the next record begins
  for (let sequence = header.first; offset + RECORD_HEADER <= raw.length; sequence++) {
    const length = raw.readUInt32LE(offset);
    if (length === 0) break;
    const payload = raw.subarray(offset + RECORD_HEADER, offset + RECORD_HEADER + length);
    if (length > MAX_RECORD_BYTES || payload.length < length) {
      damage.push(offset);
      known = false;
      break;
    }
    const whole = checksumOf(payload, sequence) === raw.readUInt32LE(offset + 4);
    if (!whole) damage.push(offset);
    records.push([sequence, whole ? payload : null]);
    offset += storedSize(length);
  }
  if (known && !isUnfinished(raw.subarray(offset), header.first + records.length)) damage.push(offset);
  const state = STATES[raw[STATE_AT] ?? -1] ?? "closed";
  const end = state === "open" && damage.length === 0 && offset <= raw.length ? offset : null;
  return { header, state, records, damage, end };
}

/** Whether at most one record without its length follows the last record: its writer died before it answered. */
function isUnfinished(rest: Buffer, sequence: number): boolean {
  if (rest.length <= RECORD_HEADER || isZero(rest)) return true;
  const checksum = rest.readUInt32LE(4);
  let running = sequence % 2 ** 32;
  for (let end = RECORD_HEADER; end < Math.min(MAX_RECORD_BYTES + RECORD_HEADER, rest.length); end++) {
    running = crc32(rest.subarray(end, end + 1), running);
    if (running === checksum) return isZero(rest.subarray(end + 1));
  }
  return isZero(rest.subarray(RECORD_HEADER + MAX_RECORD_BYTES));
}

function isZero(raw: Buffer): boolean {
  return raw.every((byte) => byte === 0);
}

/** Parses the first `HEADER_BYTES` of a segment. */
export function readHeader(raw: Buffer): SegmentHeader {
  if (raw.length < HEADER_BYTES || !raw.subarray(0, MAGIC.length).equals(MAGIC)) {
    throw new AuditError("not a journal segment");
  }
  const body = raw.subarray(BODY_AT, Math.min(BODY_AT + raw.readUInt32LE(LENGTHS_AT), HEADER_BYTES));
  const header = crc32(body) === raw.readUInt32LE(LENGTHS_AT + 4) ? headerOf(body) : undefined;
  if (header === undefined) throw new AuditError("the segment's header is damaged");
  return header;
}

function headerOf(body: Buffer): SegmentHeader | undefined {
  let at = 1;
  const number = (size: number): number => body.readUIntBE((at += size) - size, size);
  const text = (): string => {
    const kind = number(1);
    const length = (kind & 0xe0) === 0xa0 ? kind & 0x1f : kind === 0xd9 ? number(1) : Number.NaN;
    const raw = body.subarray(at, (at += length));
    if (raw.length !== length) throw new RangeError("no text");
    return UTF8.decode(raw);
  };
  const integer = (): number => {
    const kind = number(1);
    if (kind < 0x80) return kind;
    if (kind === 0xcf) return number(4) * 2 ** 32 + number(4);
    return number({ 0xcc: 1, 0xcd: 2, 0xce: 4 }[kind] ?? Number.NaN);
  };
  try {
    const texts = { verifier: text(), audience: text(), boot: text() };
    const header = { ...texts, first: integer(), created: integer(), budget: integer() };
    const counts = [header.first - 1, header.created, header.budget];
    const isWhole = body[0] === 0x96 && at === body.length && counts.every((count) => count >= 0 && count < 2 ** 53);
    return isWhole && Number.isSafeInteger(header.first) && BOOT.test(header.boot) ? header : undefined;
  } catch {
    return undefined;
  }
}
