// SPDX-License-Identifier: Apache-2.0
/** The epoch view: kills, freezes and the lease, and the check of a token against them.  SPEC 10.  It does no I/O. */

import { FeedError } from "../errors.ts";

/** Clocks in ms: one that never steps, the same for all threads of this process, and the wall clock. */
export interface Clocks {
  readonly boot: () => number;
  readonly wall: () => number;
}

/** Node cannot read a boot clock: the monotonic one takes its place, beside the wall clock.  SPEC 10.4. */
export const CLOCKS: Clocks = {
  boot: () => {
    const [s, ns] = process.hrtime();
    return s * 1000 + ns / 1_000_000;
  },
  wall: Date.now,
};

/** How long a view may be used: deadlines on both clocks, and the boot clock before its probe left, ms. */
export interface Lease {
  readonly boot: number;
  readonly wall: number;
  readonly sent: number;
}

export type EpochCode = "revoked" | "frozen" | "stale" | "syncing" | "behind" | "fenced" | "closed";

/** A change of a view, as one thread sends it to another. */
export type ViewChange =
  | { readonly do: "apply"; readonly seq: number; readonly op: string; readonly target: string }
  | { readonly do: "adopt"; readonly state: StateCopy }
  | { readonly do: "renew"; readonly lease: Lease; readonly clock: StoreClock }
  | { readonly do: "fence"; readonly detail: string }
  | { readonly do: "forget"; readonly kills: readonly (readonly [string, number])[] }
  | { readonly do: "close" };

export type StateCopy = Readonly<Omit<EpochState, "lease">>;

/** A wait, begun at `asked`, for a probe sent at or after `sentAfter`, and for the entry `born`; boot clock. */
export interface Wait { readonly sentAfter: number; readonly born: number; readonly asked: number }

/** The store's clock, and the boot clock when the probe left, ms. */
export interface StoreClock { readonly at: number; readonly sent: number }

/** One history of the store, as far as the view knows it. */
export interface EpochState {
  incarnation: string;
  applied: number; // every entry up to it is in the two maps; -1 before the first answer
  kills: Map<string, number>;
  freezes: Map<string, number>;
  lease: Lease | null;
  refuses: "syncing" | "fenced" | "closed";
}

const OPS = new Set(["kill", "freeze", "kill+freeze", "thaw"]);
export const KILLING = new Set(["kill", "kill+freeze"]);
const FREEZING = new Set(["freeze", "kill+freeze"]);

/** A view whose sequence only rises, and its lease.  */
export class EpochTable {
  protected readonly clocks: Clocks;
  protected readonly state: EpochState = {
    incarnation: "", applied: -1, kills: new Map(), freezes: new Map(), lease: null, refuses: "syncing",
  };
  #storeClock: StoreClock | null = null;

  constructor(clocks: Clocks = CLOCKS) {
    this.clocks = clocks;
  }

  /**
   * Returns why a token is refused, or null; never waits.  SPEC 10.4.
   *
   * @param incarnation The incarnation that the token was born in; null for an operator's token.
   * @param born The sequence that it was born at.
   * @param targets All targets whose kill or freeze ends it.
   * @param sentAfter Boot clock, ms: the lease must come from a probe sent at or after it (`fresh`).
   */
  check(
    incarnation: string | null, born: number, targets: readonly string[], sentAfter = Number.NEGATIVE_INFINITY,
  ): EpochCode | null {
    this.refresh();
    const { state } = this;
    const { lease } = state;
    if (lease === null) return state.refuses;
    // Sequences of two histories cannot be compared: a kill in this one may have a lower number than `born`.
    if (incarnation !== null && incarnation !== state.incarnation) return "revoked";
    if (born > state.applied) return "behind";
    const ended = endedIn(state, born, targets);
    if (ended !== null) return ended;
    if (lease.sent < sentAfter) return "stale"; // older than the token's `fresh` allows
    // The clocks come last: a thread that was suspended above must find its lease ended, not trust an old reading.
    return this.clocks.boot() < lease.boot && this.clocks.wall() < lease.wall ? null : "stale";
  }

  bootMs(): number {
    return this.clocks.boot();
  }

  /** Returns the earliest and the latest possible time, by the caller's clock and the store's, ms. */
  timesMs(at: number): readonly [number, number] {
    // A kill is forgotten once all that it revokes has expired by the store's clock: a caller whose clock is late must
    // not accept such a token.
    this.refresh();
    if (this.#storeClock === null) return [at, at];
    const store = Math.floor(this.#storeClock.at + this.clocks.boot() - this.#storeClock.sent);
    return at < store ? [at, store] : [store, at];
  }

  /** Returns incarnation, applied sequence, and the view's age in ms, -1 without a lease. */
  view(): { readonly incarnation: string; readonly applied: number; readonly ageMs: number } {
    this.refresh();
    const { incarnation, applied, lease } = this.state;
    const ageMs = lease === null ? -1 : Math.max(0, Math.floor(this.clocks.boot() - lease.sent));
    return { incarnation, applied, ageMs };
  }

  /** Returns how long the view may be used without another answer, ms; 0 if it may not. */
  leaseLeftMs(): number {
    this.refresh();
    const { lease } = this.state;
    return lease === null ? 0 : Math.max(0, Math.min(lease.boot - this.clocks.boot(), lease.wall - this.clocks.wall()));
  }

  /** Takes what has come since, if another thread follows the store. */
  protected refresh(): void {}

  /** Returns whether what is waited for has come; false if it will not, and undefined while that is open. */
  protected answer({ sentAfter, born, asked }: Wait): boolean | undefined {
    const { lease, applied, refuses } = this.state;
    if (lease === null) return refuses === "closed" ? false : undefined;
    if (lease.sent >= sentAfter && applied >= born) return true;
    // The store was asked after this wait began, and had no such entry.
    return lease.sent >= Math.max(asked, sentAfter) && applied < born ? false : undefined;
  }

  /** Makes a change; returns whether an applied entry was the next one. */
  protected change(change: ViewChange): boolean {
    switch (change.do) {
      case "apply": return this.#apply(change.seq, change.op, change.target);
      case "adopt": {
        const { kills, freezes, ...rest } = change.state;
        Object.assign(this.state, rest, { kills: new Map(kills), freezes: new Map(freezes), lease: null });
        break;
      }
      case "renew":
        this.#storeClock = change.clock;
        this.state.lease = change.lease;
        this.state.refuses = "syncing";
        break;
      case "fence":
        this.#end("fenced");
        break;
      case "forget":
        for (const [target, seq] of change.kills) {
          if ((this.state.kills.get(target) ?? seq + 1) <= seq) this.state.kills.delete(target);
        }
        break;
      case "close":
        this.#end("closed");
    }
    return true;
  }

  #end(refuses: EpochState["refuses"]): void {
    this.state.lease = null;
    this.state.refuses = refuses;
  }

  #apply(seq: number, op: string, target: string): boolean {
    if (!OPS.has(op)) throw new FeedError("an entry of an unknown kind");
    const { state } = this;
    if (seq <= state.applied) return true;
    const inOrder = seq === state.applied + 1;
    if (KILLING.has(op) && (state.kills.get(target) ?? 0) < seq) state.kills.set(target, seq);
    if (FREEZING.has(op) && (state.freezes.get(target) ?? 0) < seq) state.freezes.set(target, seq);
    // A thaw that overtook its freeze must wait for the log: applied now, the later freeze would never end.
    if (op === "thaw" && inOrder && (state.freezes.get(target) ?? seq) < seq) state.freezes.delete(target);
    if (inOrder) state.applied = seq;
    return inOrder;
  }
}

function endedIn({ kills, freezes }: EpochState, born: number, targets: readonly string[]): EpochCode | null {
  // All kills come before the freezes: a thaw ends only the latter.
  if (kills.size > 0 && targets.some((target) => (kills.get(target) ?? born) > born)) return "revoked";
  return freezes.size > 0 && targets.some((target) => freezes.has(target)) ? "frozen" : null;
}
