// SPDX-License-Identifier: Apache-2.0
/** Places in a realm's kill sequence, with a hash chain that distinguishes two histories.  SPEC 10.9. */

import { createHash } from "node:crypto";

export const UNKNOWN = ""; // no store has this chain hash: a verifier that sends it must copy the kills

export interface HistoryPlace {
  readonly incarnation: string;
  readonly seq: number;
  /** Chain hash of all entries up to it, 40 hex digits. */
  readonly chain: string;
}

/** One entry of the kill sequence, in the log or pushed. */
export interface EpochEntry {
  readonly incarnation: string;
  readonly seq: number;
  readonly op: string;
  readonly target: string;
}

export const NOWHERE: HistoryPlace = { incarnation: "", seq: -1, chain: UNKNOWN };

/** Returns the place after an entry; the same place if the entry is not the next one. */
export function after(place: HistoryPlace, entry: EpochEntry): HistoryPlace {
  const { incarnation, seq, op, target } = entry;
  if (incarnation !== place.incarnation || seq !== place.seq + 1) return place;
  // SHA-1 is the hash that a store's functions have.  It guards against accidents.
  const chain = createHash("sha1").update(`${place.chain} ${seq} ${op} ${target}`).digest("hex");
  return { incarnation, seq, chain };
}

const DATED = /^0[0-9a-f]{11}/; // the begin of a name that has an order; those of earlier versions have none

/** Returns whether two names show that the first history ended before the second one began.  SPEC 10.2. */
export function precedes(one: string, other: string): boolean {
  return DATED.test(one) && DATED.test(other) && one.slice(0, 12) < other.slice(0, 12);
}
