// SPDX-License-Identifier: Apache-2.0
// Used calls and used names.  SPEC 6.8, 8.3.

/** What came of spending a key: `new`, `used`, or `full` when it is not known. */
export type Spent = "new" | "used" | "full";

/** A store of used calls. */
export interface Nonces {
  /** Spend a key, one character a byte, and remember it until a time, ms since the Unix epoch. */
  spend(key: string, until: number, now: number): Spent | Promise<Spent>;
  /** The time before which it may have forgotten a key, ms since the Unix epoch. */
  notBefore(): number;
  close?(): void;
}

export const BRIEF_MS = 60_000; // a key that is remembered for longer is the name of a `once`
const ROOM = 1_000_000;

/** Used calls in the memory of this process: no other process, and no worker, has them. */
export class MemoryNonces implements Nonces {
  readonly #start: number;
  readonly #room: number;
  readonly #seen = new Map<string, number>();
  #lasting = 0;
  #purged: number;

  constructor(start: number = Date.now(), room: number = ROOM) {
    this.#start = start;
    this.#purged = start;
    this.#room = room;
  }

  spend(key: string, until: number, now: number): Spent {
    if (now - this.#purged >= 1000) this.#purge(now);
    // After a clock was set back, a key that was forgotten is not new.
    if (this.#seen.has(key) || until < this.#purged) return "used";
    const lasting = until - now > BRIEF_MS;
    // A holder can make names that are remembered for a day: they have half of the room, so that calls go on.
    if (this.#seen.size >= this.#room || (lasting && this.#lasting >= this.#room / 2)) return "full";
    if (lasting) this.#lasting += 1;
    this.#seen.set(key, lasting ? -until : until);
    return "new";
  }

  notBefore(): number {
    return this.#start;
  }

  #purge(now: number): void {
    for (const [key, until] of this.#seen) {
      if (Math.abs(until) >= now) continue;
      if (until < 0) this.#lasting -= 1;
      this.#seen.delete(key);
    }
    this.#purged = now;
  }
}
