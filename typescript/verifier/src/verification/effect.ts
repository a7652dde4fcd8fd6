// SPDX-License-Identifier: Apache-2.0
// What an answer shows of the effect of its call, and the one record of that.  SPEC 12.8.

import { createHash } from "node:crypto";
import { type EffectRecord, type EffectResult, newSalt } from "../journal/record.ts";
import { AuditError } from "../errors.ts";

const MOST_DIGESTED = 1 << 20;
const UNSURE = [502, 504]; // what was called behind the tool may have run

/** Writes the record; a promise if the journal waits for the disk. */
export type WriteEffect = (
  effect: EffectRecord, salt: Uint8Array, externalId: string | null,
) => Promise<void> | undefined;

/** The effect of an allowed call, whose record is awaited. */
export class CallEffect {
  /** What the tool itself calls its effect. */
  externalId: string | null = null;
  readonly #of: string;
  readonly #salt = newSalt();
  readonly #hash = createHash("sha256").update(this.#salt);
  readonly #begun = performance.now();
  #write: WriteEffect | undefined;
  #size = -1;

  constructor(decision: string, write: WriteEffect) {
    this.#of = decision;
    this.#write = write;
  }

  /** Take a part of the answer that is about to leave; return the length so far, bytes. */
  take(part: Uint8Array): number {
    this.#size = Math.max(0, this.#size) + part.length;
    if (this.#write !== undefined && this.#size <= MOST_DIGESTED) this.#hash.update(part);
    return this.#size;
  }

  /** Write the record, before the last part of the answer leaves; a second call writes nothing.
   *
   * Without a result, the status of a whole answer has it.
   */
  settle(result?: EffectResult, status = 0): Promise<void> | undefined {
    const write = this.#write;
    if (write === undefined) return undefined;
    this.#write = undefined;
    const size = result === "unknown" ? -1 : this.#size;
    const digest = size > 0 && size <= MOST_DIGESTED ? this.#hash.digest() : new Uint8Array(0);
    const known = result ?? (UNSURE.includes(status) ? "unknown" : status < 400 ? "done" : "failed");
    const took = Math.floor(performance.now() - this.#begun);
    try {
      const effect = { result: known, of: this.#of, status, size, digest, took };
      return write(effect, this.#salt, this.externalId)?.catch(report);
    } catch (error) {
      return report(error);
    }
  }
}

/** The tool has run: without its answer the caller would run it again.  The log shows such an effect as unknown. */
function report(error: unknown): undefined {
  if (!(error instanceof AuditError)) throw error;
  process.emitWarning(`the effect of a call has no record: ${error.message}`, "ArxJournalWarning");
}
