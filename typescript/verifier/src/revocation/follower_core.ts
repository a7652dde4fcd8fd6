// SPDX-License-Identifier: Apache-2.0
/**
 * Rules of following the store: when to probe, how to apply an answer, when to drop a connection.  SPEC 10.
 *
 * Nothing here opens, waits or starts a timer; clocks are passed in.  All times are in ms.
 */

import { EpochTable, KILLING, type StateCopy } from "./epoch.ts";
import { FeedError } from "../errors.ts";
import { after, type EpochEntry, type HistoryPlace, NOWHERE, precedes, UNKNOWN } from "./history.ts";

const SKEW_MS = 30_000; // between a verifier's clock and the store's; beyond it the view is fenced
const PROBE_MS = 250; // a quarter of the default lease: three answers may be lost
const PROBES = 4; // in a lease
const DRIFT_DIVISOR = 500; // two clocks, each at most 0.1 % off, differ by at most 1/500
const MIN_GAP_MS = 5; // between probes for waiting requests, which share a probe
const [CONFIRM_MS, CONFIRM_MOST_MS] = [0.04, 50]; // pause for each follower before a push is confirmed
const ANSWER_MS = 1_000; // longest wait for an answer, if a lease is not shorter
const AT_ONCE = 10_000; // kills forgotten in one answer: a large copy expires at once, and must delay no probe

const RETURNED = "the store returned to a history that had ended";

/** The server may have taken another one's place: it grants no lease before a mint has attested it.  SPEC 10.8. */
export class UnattestedError extends FeedError {}

export const STATUSES = ["OK", "RESYNC", "REGRESSED", "CORRUPT"] as const;

/** The store's answer to a probe. */
export interface StoreAnswer {
  readonly incarnation: string;
  readonly seq: number;
  readonly at: number;
  readonly leaseMs: number;
  readonly status: (typeof STATUSES)[number];
  readonly keepMs: number;
  readonly chain: string;
  readonly entries: readonly EpochEntry[];
  readonly askers: number;
  /** How old the facts of a relay's answer were when the probe came, ms. */
  readonly ageMs: number;
}

export interface CopiedTargets {
  readonly kills: ReadonlyMap<string, number>;
  readonly freezes: ReadonlyMap<string, number>;
}

/** An epoch view with the rules that keep it current. */
export class Following extends EpochTable {
  /** Whether there are further relays, one of which may have what this one lacks.  SPEC 10.7. */
  several = false;
  /** The longest wait for an answer, ms. */
  timeoutMs = ANSWER_MS;
  /** When the last probe left, boot clock. */
  lastAsked = 0;
  readonly #retired = new Set<string>();
  /** The kills in the order in which this view learned them, to forget those that are not needed.  SPEC 10.3. */
  #learned: (readonly [at: number, target: string, seq: number])[] = [];
  #interval = PROBE_MS;
  #patience = 0; // pause before a push is confirmed
  #place = NOWHERE;
  #sent: { readonly boot: number; readonly wall: number } | null = null; // before the probe in flight left
  #due = 0; // when the next one must leave, boot clock
  #skew: string | null = null;

  get isInFlight(): boolean {
    return this.#sent !== null;
  }

  get lastGrant(): number {
    return this.state.lease?.sent ?? 0;
  }

  /** Forgets the probe in flight: there is a new, subscribed connection without a probe. */
  begin(): void {
    this.#sent = null;
    this.#due = 0;
  }

  close(): void {
    this.change({ do: "close" });
  }

  /** Returns when `ask` is due if nothing arrives before, boot clock. */
  nextAt(hurry = false): number {
    if (this.#sent !== null) return this.#sent.boot + this.timeoutMs;
    return hurry ? Math.min(this.#due, this.lastAsked + MIN_GAP_MS) : this.#due;
  }

  /** Returns the place in the probe to send now, if one is due: it must leave after this call. */
  ask(hurry = false): HistoryPlace | null {
    if (this.clocks.boot() < this.nextAt(hurry)) return null;
    if (this.#sent !== null) throw new FeedError("no answer in time");
    // Both clocks are read before a byte leaves: a slow network must not lengthen the lease.
    this.#sent = { boot: this.clocks.boot(), wall: this.clocks.wall() };
    this.lastAsked = this.#sent.boot;
    this.#due = this.lastAsked + this.#interval;
    const { incarnation, applied } = this.state;
    const known = this.#place.incarnation === incarnation && this.#place.seq === applied;
    return { incarnation, seq: applied, chain: known ? this.#place.chain : UNKNOWN };
  }

  /** Applies a published entry, and makes a probe due, which confirms it, fills a gap or finds a new history. */
  takePush(entry: EpochEntry): void {
    const { incarnation, applied } = this.state;
    if (entry.incarnation === incarnation && entry.seq <= applied) return;
    if (entry.incarnation === incarnation && this.#apply(entry)) {
      this.#due = Math.min(this.#due, this.clocks.boot() + this.#patience);
    } else this.#due = 0;
  }

  /** Applies the answer to the probe in flight; `copy` is what the store copied for a `RESYNC`. */
  takeAnswer(answer: StoreAnswer, copy: CopiedTargets | null): void {
    const sent = this.#sent;
    this.#sent = null;
    if (sent === null) throw new FeedError("an answer without a probe");
    if (this.several) this.#expectUseful(answer);
    // A relay's answer was true some time before the question: its age is subtracted from the lease.  SPEC 10.7
    const age = answer.ageMs * (1 + 1 / DRIFT_DIVISOR);
    this.#compareClocks(answer.at, sent.wall - age);
    if (answer.status === "OK") this.#takeEntries(answer, sent.boot - age, sent.wall - age);
    else if (answer.status !== "RESYNC") this.#distrust(answer, answer.status);
    else if (this.isOver(answer.incarnation)) this.#fence(RETURNED, false);
    else if (copy === null) throw new FeedError("an answer without its copy");
    else {
      this.#adopt(answer, copy);
      const { incarnation, seq, chain } = answer;
      this.#place = { incarnation, seq, chain };
      const now = this.clocks.boot();
      this.#learned = Array.from(this.state.kills, ([target, killed]) => [now, target, killed]);
      this.#due = 0; // the entries after answer.seq contain what the copy missed
    }
  }

  /** Returns whether a history has ended: it was left, or is earlier than that of the view.  SPEC 10.5. */
  isOver(incarnation: string): boolean {
    return this.#retired.has(incarnation) || precedes(incarnation, this.state.incarnation);
  }

  /** Leaves one of several relays that is behind the store or this view: neither view nor lease changes. */
  #expectUseful(answer: StoreAnswer): void {
    if (answer.ageMs > Math.min(answer.leaseMs, ANSWER_MS) / 2) {
      throw new FeedError("the relay has no answer of the store for half a lease");
    }
    const [mine, theirs] = [this.state.incarnation, answer.incarnation];
    const lacks = theirs === mine && answer.status === "RESYNC" && answer.seq < this.state.applied;
    // Without an order of two histories, the relay's may be the earlier one.
    const unknown = theirs !== mine && !precedes(mine, theirs) && this.leaseLeftMs() > 0;
    if (lacks || unknown || answer.status === "REGRESSED" || answer.status === "CORRUPT" || this.isOver(theirs)) {
      throw new FeedError("the relay has less than this view, or a history that has ended");
    }
  }

  #adopt(answer: StoreAnswer, copy: CopiedTargets): void {
    const { incarnation, seq: applied } = answer;
    const old = this.state;
    const kills = new Map(copy.kills);
    if (incarnation === old.incarnation) {
      if (applied < old.applied) return this.#fence(`the store went back from ${old.applied} to ${applied}`, true);
      for (const [target, seq] of old.kills) if (seq > (kills.get(target) ?? 0)) kills.set(target, seq);
    } else if (old.incarnation !== "") this.#retired.add(old.incarnation);
    const refuses = this.#retired.has(incarnation) ? "fenced" : "syncing";
    const state: StateCopy = { incarnation, applied, kills, freezes: new Map(copy.freezes), refuses };
    this.change({ do: "adopt", state });
  }

  #takeEntries(answer: StoreAnswer, sent: number, sentWall: number): void {
    const { incarnation, seq } = answer;
    // A new history starts with a copy (RESYNC), never with entries: kills before them would be missing.
    if (incarnation !== this.state.incarnation) throw new FeedError("an answer from another history");
    if (this.#skew !== null) return this.#fence(this.#skew, false);
    for (const entry of answer.entries) {
      if (!this.#apply(entry)) throw new FeedError("entries are missing in the store's log");
    }
    if (this.state.applied < seq) {
      this.#due = 0; // the answer was cut short: no lease before the rest arrives
      return;
    }
    const { incarnation: history, seq: placed, chain } = this.#place;
    if (this.state.applied === seq && (history !== incarnation || placed !== seq || chain !== answer.chain)) {
      return this.#distrust(answer, "REGRESSED"); // the store has used sequences twice
    }
    const { leaseMs } = answer;
    this.timeoutMs = Math.min(leaseMs, ANSWER_MS);
    this.#interval = Math.min(PROBE_MS, Math.max(1, Math.floor(leaseMs / PROBES)));
    this.#due = Math.min(this.#due, this.lastAsked + this.#interval);
    this.#patience = Math.min(Math.floor(answer.askers * CONFIRM_MS), CONFIRM_MOST_MS);
    if (this.state.refuses === "closed" || this.state.applied !== seq) return;
    if (this.#retired.has(incarnation)) return this.#fence(RETURNED, false);
    const lease = { boot: sent + leaseMs, wall: sentWall + leaseMs, sent };
    this.change({ do: "renew", lease, clock: { at: answer.at, sent } });
    this.#forget(this.clocks.boot() - answer.keepMs);
  }

  /** Forgets kills that were learned before a time of the boot clock. */
  #forget(before: number): void {
    const count = this.#learned.slice(0, AT_ONCE).filter(([at]) => at < before).length;
    const kills = this.#learned.splice(0, count).map(([, target, seq]) => [target, seq] as const);
    if (count > 0) this.change({ do: "forget", kills });
  }

  #compareClocks(at: number, sentWall: number): void {
    const wall = this.clocks.wall();
    let skew: string | null = null;
    if (!(Math.floor(sentWall) - SKEW_MS <= at && at <= Math.floor(wall) + SKEW_MS)) {
      const offS = Math.floor(wall / 1000) - Math.floor(at / 1000);
      const off = offS > 0 ? `${offS} s ahead of` : `${-offS} s behind`;
      skew = `this clock is ${off} the store's: expected at most ${SKEW_MS / 1000} s; set both clocks by NTP`;
    }
    this.#skew = skew;
  }

  #apply(entry: EpochEntry): boolean {
    const inOrder = this.change({ do: "apply", seq: entry.seq, op: entry.op, target: entry.target });
    this.#place = after(this.#place, entry);
    if (KILLING.has(entry.op)) this.#learned.push([this.clocks.boot(), entry.target, entry.seq]);
    return inOrder;
  }

  /** Retires a history whose entries differ from those applied here, or are incomplete. */
  #distrust(answer: StoreAnswer, status: string): void {
    const { applied } = this.state;
    let seen = `${applied} was applied here, the store is at ${answer.seq}`;
    if (status === "REGRESSED" && applied <= answer.seq) {
      seen = `number ${applied} was something else here than in the store, which is at ${answer.seq}`;
    }
    this.#fence(`the revocation store is ${status.toLowerCase()}: ${seen}`, true);
  }

  #fence(detail: string, retire: boolean): void {
    if (retire && this.state.incarnation !== "") this.#retired.add(this.state.incarnation);
    this.change({ do: "fence", detail });
  }
}
