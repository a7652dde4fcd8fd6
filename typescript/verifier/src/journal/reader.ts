// SPDX-License-Identifier: Apache-2.0
/** Reads a segment whose writer is dead: its records, its damage, and where a new writer cuts it.  SPEC 15.3. */

import { crc32 } from "node:zlib";
import { AuditError } from "../revocation/errors.ts";
import { MAX_RECORD_BYTES } from "./record.ts";
import { checksumOf, HEADER_BYTES, readHeader, type SegmentHeader, stateOf, storedSize } from "./segment.ts";

const RECORD_HEADER = 8;
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
  const state = STATES[stateOf(raw)] ?? "closed";
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
