// SPDX-License-Identifier: Apache-2.0
/** Writes every decision to a local journal, during the request and without waiting.  SPEC 12, 15.3. */

import { randomBytes } from "node:crypto";
import fs from "node:fs";
import { AuditError, SettingsError } from "../errors.ts";
import { Liveness } from "./liveness.ts";
import { denialsShare, holdBudget, removeStale } from "./quota.ts";
import { type Decision, type Gap, MAX_RECORD_BYTES, pack, type RefusalCount, UNPROVEN } from "./record.ts";
import { Segment, storedSize } from "./segment.ts";

export const MODES = ["strict", "durable", "best_effort"] as const;
export type JournalMode = (typeof MODES)[number];

export interface JournalOptions {
  /** Size of a file, bytes. */
  readonly segmentBytes?: number | undefined;
  /** `strict` keeps a record over the death of the process, `durable` over that of the host as well; `best_effort` lets
   * a call go ahead without a record, and records the gap later. */
  readonly mode?: JournalMode | undefined;
  /** Quota of all files of the folder, bytes. */
  readonly maxBytes?: number | undefined;
  /** Wall clock, ms. */
  readonly clock?: () => number;
  readonly log?: (text: string) => void;
}

export const SEGMENT_BYTES = 16 * 1024 * 1024;
export const MAX_BYTES = 1024 * 1024 * 1024;
const FIRST_BYTES = 1024 * 1024; // of a run's first file
const MIN_SEGMENT_BYTES = 2 * MAX_RECORD_BYTES;
const PAGE = 4096;
const PEERS = 64; // counts by reason and peer; further peers are counted together, as "*"
const COUNTS_MS = 1000; // shortest time between two records of counts
const [RESERVE_SHARE, RESERVE_BYTES] = [16, 64 * 1024]; // a segment's last part is for denials
const [LOOK_MS, RETRY_MS] = [1000, 1000]; // time between two checks of the file; pause after one that did not open

/** The decisions of one verifier.  Opened at the first decision; this thread alone writes it. */
export class Journal {
  readonly verifierId: string;
  readonly waits: boolean;
  readonly #folder: string;
  readonly #audience: string;
  readonly #goesOn: boolean;
  readonly #segmentBytes: number;
  readonly #firstBytes: number;
  readonly #maxBytes: number;
  readonly #reserve: number;
  readonly #clock: () => number;
  readonly #log: (text: string) => void;
  readonly #counts = new Map<string, RefusalCount>(); // refusals without records of their own: SPEC 12.2
  readonly #gaps = new Map<Gap["why"], Gap>();
  #boot = "";
  #sequence = 0;
  #segment: Segment | undefined;
  #retired: Segment[] = []; // files that may not be on disk yet
  #life: Liveness | undefined;
  #deniedLeft = 0;
  #recountAt = 0;
  #countedAt = Number.NEGATIVE_INFINITY;
  #retryAt = 0;
  #looked = 0;
  #broken = "";
  #kept = 0; // the last sequence that is on disk
  #syncing: Promise<void> | undefined;
  #closed = false;

  constructor(folder: string, verifierId: string, audience: string, options: JournalOptions = {}) {
    // Node has no file locks, and only Linux lets a full queue of a socket show a living process.
    if (process.platform !== "linux") throw new SettingsError(`a journal needs Linux, got ${process.platform}`);
    const { segmentBytes = SEGMENT_BYTES, mode = "strict", maxBytes = MAX_BYTES } = options;
    if (!(segmentBytes >= MIN_SEGMENT_BYTES && segmentBytes <= maxBytes) || segmentBytes % PAGE !== 0) {
      const expected = `whole pages from ${MIN_SEGMENT_BYTES} up to the quota of ${maxBytes}`;
      throw new SettingsError(`invalid segmentBytes: expected ${expected}, got ${segmentBytes}`);
    }
    this.#folder = folder;
    this.verifierId = verifierId;
    this.#audience = audience;
    this.waits = mode === "durable";
    this.#goesOn = mode === "best_effort";
    this.#segmentBytes = segmentBytes;
    this.#firstBytes = Math.min(segmentBytes, FIRST_BYTES);
    this.#maxBytes = maxBytes;
    this.#reserve = Math.min(RESERVE_BYTES, Math.floor(segmentBytes / RESERVE_SHARE));
    this.#clock = options.clock ?? Date.now;
    this.#log = options.log ?? ((text) => process.emitWarning(text, "ArxJournalWarning"));
  }

  get boot(): string {
    return this.#boot;
  }

  /**
   * Records a decision.
   *
   * @returns The sequence; 0 for a denial without room, and in mode `best_effort` for any decision, which is counted.
   * @throws AuditError An allow could not be recorded: it must be refused.
   */
  append(decision: Decision): number {
    const roomy = decision.code === "ok" || decision.code === "effect";
    try {
      const payload = pack(decision);
      this.#lookAfter();
      return this.#put(payload, roomy);
    } catch (error) {
      if (!isExpected(error)) throw error;
      if (roomy && !this.#goesOn) throw new AuditError("the decision journal cannot be written", { cause: error });
      if (roomy) this.#drop(decision.at);
      else this.#tally(decision.code, decision.peer ?? "");
      return 0;
    }
  }

  /** In mode `durable`: waits until a decision is on disk; one sync serves all that wait.  Throws if it is not kept. */
  async settle(sequence: number): Promise<void> {
    const boot = this.#boot;
    while (this.waits && this.#kept < sequence) {
      this.#syncing ??= this.#sync().finally(() => {
        this.#syncing = undefined;
      });
      await this.#syncing;
      if (boot !== this.#boot) throw new AuditError("the decision journal was not kept by the disk");
    }
  }

  /** Counts an unauthenticated refusal; there is at most one record of counts a second. */
  count(code: string, peer: string | null): void {
    this.#tally(code, peer ?? "");
    this.#flush(false);
  }

  #tally(code: string, own: string): void {
    const peer = this.#counts.has(`${code} ${own}`) || this.#counts.size < PEERS ? own : "*";
    const times = (this.#counts.get(`${code} ${peer}`)?.times ?? 0) + 1;
    this.#counts.set(`${code} ${peer}`, { code, peer, times });
  }

  /** Records the counts, releases unused room and ends the run.  A later decision starts another run. */
  async close(): Promise<void> {
    this.#flush(true);
    if (this.#gaps.size > 0 && this.#segment === undefined) attempt(() => this.#next());
    this.#recordGaps();
    if (this.waits && this.#sequence > 0) await this.settle(this.#sequence).catch(() => undefined);
    this.#segment?.close(true);
    this.#endRun();
  }

  #endRun(): void {
    for (const old of this.#retired) old.close(false);
    this.#retired = [];
    this.#segment = undefined;
    this.#life?.close();
    this.#life = undefined;
    this.#closed = true;
  }

  #put(payload: Uint8Array, roomy: boolean): number {
    const needed = storedSize(payload.length);
    let segment = this.#segment;
    if (segment === undefined || segment.room < needed + (roomy ? this.#reserve : 0)) segment = this.#next();
    if (!roomy) this.#deny(segment, needed);
    return this.#add(segment, payload);
  }

  #add(segment: Segment, payload: Uint8Array): number {
    try {
      segment.write(payload, this.#sequence + 1);
    } catch (error) {
      segment.close(false); // it cuts what was written of this record: the run goes on in another file
      this.#segment = undefined;
      throw error;
    }
    this.#sequence += 1;
    return this.#sequence;
  }

  /** Takes room for a denial from the share of all denials in this folder. */
  #deny(segment: Segment, needed: number): void {
    const now = performance.now();
    if (this.#deniedLeft < needed && now >= this.#recountAt) {
      this.#recountAt = now + RETRY_MS;
      this.#deniedLeft = denialsShare(this.#folder, this.#maxBytes, needed);
      if (this.#deniedLeft >= needed) this.#recountAt = 0;
    }
    if (this.#deniedLeft < needed) throw new AuditError("journal quota for denials is full (25 %): ship records");
    segment.deny(needed);
    this.#deniedLeft -= needed;
  }

  #drop(at: number): void {
    const known = this.#gaps.get("dropped");
    const [since, until] = [Math.min(known?.since ?? at, at), Math.max(known?.until ?? at, at)];
    this.#gaps.set("dropped", { why: "dropped", first: 0, last: 0, times: (known?.times ?? 0) + 1, since, until });
  }

  #lookAfter(): void {
    const now = this.#clock();
    if (now - this.#looked >= 0 && now - this.#looked < LOOK_MS) return;
    this.#looked = now;
    if (this.#segment !== undefined) {
      if (!this.#segment.healthy()) this.#lost();
      else if (!this.#life?.healthy()) {
        // Without its socket a run would be taken for dead.
        this.#segment.close(true);
        this.#endRun();
      }
    }
    this.#flush(false);
  }

  /** Leaves a file that was deleted or cut; its gap is recorded at the start of the next one. */
  #lost(): void {
    const segment = this.#segment as Segment;
    segment.close(false, false);
    this.#segment = undefined;
    const { first, created } = segment.header;
    if (this.#sequence >= first) {
      const known = this.#gaps.get("lost");
      const from = known?.first ?? first;
      const times = this.#sequence + 1 - from;
      const since = known?.since ?? created;
      this.#gaps.set("lost", { why: "lost", first: from, last: this.#sequence, times, since, until: this.#clock() });
    }
    this.#log(`the file ${segment.path} of the decision journal is gone or was cut: decisions are lost`);
  }

  #recordGaps(): void {
    for (const [why, gap] of [...this.#gaps]) {
      const payload = pack({ code: "gap", at: this.#clock(), facts: UNPROVEN, gap });
      const segment = this.#segment;
      if (segment === undefined || segment.room < storedSize(payload.length)) return;
      if (!attempt(() => this.#add(segment, payload))) return;
      this.#gaps.delete(why);
    }
  }

  #flush(last: boolean): void {
    const now = performance.now();
    if (this.#counts.size === 0 || (!last && now - this.#countedAt < COUNTS_MS)) return;
    this.#countedAt = now;
    const payload = pack({ code: "counted", at: this.#clock(), facts: UNPROVEN, counts: [...this.#counts.values()] });
    const segment = this.#segment;
    // The last counts of a run need no share: there is one such record a run.
    const room = last && segment !== undefined && segment.room >= storedSize(payload.length);
    const isKept = attempt(() => this.#put(payload, false)) || (room && attempt(() => this.#add(segment, payload)));
    if (isKept) this.#counts.clear();
  }

  /** Opens the next file; if that fails, keeps the present one, where denials may still fit. */
  #next(): Segment {
    const now = performance.now();
    if (now < this.#retryAt) throw new AuditError(this.#broken);
    try {
      return this.#open();
    } catch (error) {
      const system = `the decision journal ${this.#folder} cannot be written: ${(error as Error).message}`;
      const reason = error instanceof AuditError ? error.message : system;
      const then = this.#goesOn ? "go unrecorded" : "are refused (audit_unavailable)";
      if (this.#broken === "") this.#log(`${reason}; until it can, calls ${then}`);
      this.#broken = reason;
      this.#retryAt = now + RETRY_MS;
      throw new AuditError(reason, { cause: error });
    }
  }

  #open(): Segment {
    fs.mkdirSync(this.#folder, { mode: 0o700, recursive: true });
    // Small, as a process that dies again and again leaves one for each run.
    const size = this.#segment === undefined ? this.#firstBytes : this.#segmentBytes;
    holdBudget(this.#folder, size, this.#maxBytes);
    if (this.#boot === "" || this.#closed) {
      this.#boot = randomBytes(6).toString("hex");
      this.#sequence = 0;
      this.#kept = 0;
      this.#closed = false;
      void removeStale(this.#folder);
    }
    this.#life ??= new Liveness(this.#folder, this.#boot);
    const header = {
      verifier: this.verifierId, audience: this.#audience, boot: this.#boot, first: this.#sequence + 1,
      created: this.#clock(), budget: this.#maxBytes,
    };
    const segment = new Segment(this.#folder, header, size);
    const old = this.#segment;
    this.#segment = segment;
    if (this.waits && old !== undefined) this.#retired.push(old);
    else old?.close(false);
    if (this.#broken !== "") this.#log(`the decision journal ${this.#folder} is written again`);
    this.#broken = "";
    this.#retryAt = 0;
    this.#recordGaps();
    return segment;
  }

  async #sync(): Promise<void> {
    const segment = this.#segment;
    const old = this.#retired;
    const [boot, sequence] = [this.#boot, this.#sequence];
    try {
      for (const each of segment === undefined ? old : [...old, segment]) await each.sync();
    } catch (error) {
      // After a failed sync the state of the file on disk is unknown: no decision that waits is kept.
      if (boot === this.#boot) this.#giveUp();
      throw new AuditError("the decision journal was not kept by the disk", { cause: error });
    }
    if (boot !== this.#boot) return;
    this.#kept = sequence;
    for (const each of old) each.close(false);
    this.#retired = this.#retired.filter((each) => !old.includes(each));
  }

  #giveUp(): void {
    for (const each of this.#retired) each.abandon();
    this.#segment?.abandon();
    this.#endRun();
    this.#boot = "";
  }
}

function attempt(work: () => unknown): boolean {
  try {
    work();
    return true;
  } catch (error) {
    if (isExpected(error)) return false;
    throw error;
  }
}

/** Whether an error is of the journal or of the system. */
function isExpected(error: unknown): boolean {
  return error instanceof AuditError || (error instanceof Error && "code" in error);
}
