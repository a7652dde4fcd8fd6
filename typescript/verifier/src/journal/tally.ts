// SPDX-License-Identifier: Apache-2.0
/** Counts refusals without records of their own: unauthenticated ones, and denials without room.  SPEC 12.2. */

import type { RefusalCount } from "./record.ts";

const KEYS = 64; // counts by reason and peer; further peers are counted together, as "*"
const EVERY_MS = 1000; // shortest time between two records of counts

/** Counts until they are recorded. */
export class Tally {
  readonly #counts = new Map<string, { code: string; peer: string; times: number }>();
  #last = Number.NEGATIVE_INFINITY;

  add(code: string, peer: string | null): void {
    const own = peer ?? "";
    const known = this.#counts.get(`${code} ${own}`);
    const named = known !== undefined || this.#counts.size < KEYS ? own : "*";
    const key = `${code} ${named}`;
    this.#counts.set(key, { code, peer: named, times: (this.#counts.get(key)?.times ?? 0) + 1 });
  }

  /** Whether there are counts, and a second has passed since the last record, by any steady clock in ms. */
  due(now: number, atOnce: boolean): boolean {
    return this.#counts.size > 0 && (atOnce || now - this.#last >= EVERY_MS);
  }

  counts(): RefusalCount[] {
    return [...this.#counts.values()].map((count) => ({ ...count }));
  }

  /** Removes the counts if they were recorded at `now`; else it keeps them for at least a second. */
  settle(now: number, recorded: boolean): void {
    if (recorded) this.#counts.clear();
    this.#last = now;
  }
}
