// SPDX-License-Identifier: Apache-2.0
// For tests of services: a view that never ends, and records in memory.

import type { Decision } from "../src/journal/record.ts";
import { EpochTable } from "../src/revocation/epoch.ts";
import type { Recorder } from "../src/verification/verifier.ts";

/** A view of the kill epoch with a lease that does not end. */
export class FixedView extends EpochTable {
  constructor(
    incarnation: string, applied: number, kills: Record<string, number> = {}, freezes: Record<string, number> = {},
    ageMs?: number,
  ) {
    super();
    const maps = { kills: new Map(Object.entries(kills)), freezes: new Map(Object.entries(freezes)) };
    this.change({ do: "adopt", state: { incarnation, applied, refuses: "syncing", ...maps } });
    const boot = this.bootMs();
    const sent = ageMs === undefined ? Number.POSITIVE_INFINITY : boot - ageMs;
    const lease = { boot: Number.POSITIVE_INFINITY, wall: Number.POSITIVE_INFINITY, sent };
    this.change({ do: "renew", lease, clock: { at: Number.NaN, sent: boot } });
  }

  override timesMs(at: number): readonly [number, number] {
    return [at, at];
  }
}

/** Records that a test can read. */
export class MemoryRecorder implements Recorder {
  readonly boot = "memory";
  readonly decisions: Decision[] = [];
  readonly counts = new Map<string, number>();

  append(decision: Decision): number {
    return this.decisions.push(decision);
  }

  readonly waits: boolean = false;

  async settle(_sequence: number): Promise<void> {}

  async close(): Promise<void> {}

  count(code: string): void {
    this.counts.set(code, (this.counts.get(code) ?? 0) + 1);
  }
}
