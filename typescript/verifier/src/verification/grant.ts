// SPDX-License-Identifier: Apache-2.0
// What a decision is, and the checks while an allowed call runs.  SPEC 11, 12.

import { type Code, type Failure, Refusal } from "../errors.ts";
import type { EpochTable } from "../revocation/epoch.ts";
import { LIMITS } from "../limits.ts";
import type { CallEffect } from "./effect.ts";
import type { Proven } from "./prove.ts";

const ID_POINTS = 128;

/** The outcome of one call. */
export interface Decision {
  readonly allowed: boolean;
  /** `ok`, or the reason of the refusal. */
  readonly code: Code | "ok";
  readonly failures: readonly Failure[];
  /** The name of its record: boot, `-` and sequence; empty without a record. */
  readonly id: string;
  /** What the call may do, and for how long; undefined for a refusal. */
  readonly grant: Grant | undefined;
}

/** An allowed call while it runs. */
export class Grant {
  readonly agent: string;
  /** The last holder's agent path, which is proven for a bound token alone. */
  readonly holder: string;
  readonly tool: string;
  readonly args: { readonly [name: string]: unknown };
  readonly id: string;
  /** Set if the effect of the call is recorded. */
  readonly outcome: CallEffect | undefined;
  readonly #proven: Proven;
  readonly #epochs: EpochTable;
  readonly #clock: () => number;
  #ending: AbortController | undefined;
  #ended: Code | undefined;

  constructor(
    proven: Proven, tool: string, args: Grant["args"], id: string, epochs: EpochTable, clock: () => number,
    outcome?: CallEffect,
  ) {
    this.agent = proven.identifier.agent;
    this.holder = proven.restrictions.named.at(-1) ?? proven.identifier.agent;
    this.tool = tool;
    this.args = args;
    this.id = id;
    this.outcome = outcome;
    this.#proven = proven;
    this.#epochs = epochs;
    this.#clock = clock;
  }

  /** Aborted by the recheck that finds the call's end; what guards a call rechecks at least every 250 ms. */
  get signal(): AbortSignal {
    this.#ending ??= new AbortController(); // for most calls none is made, as it takes longer than the proof
    if (this.#ended !== undefined) this.#ending.abort(new Refusal(this.#ended));
    return this.#ending.signal;
  }

  /** Note what the tool calls its effect, such as the id of a payment; no secret.  It is cut at 128 characters. */
  effect({ externalId }: { readonly externalId: string }): void {
    if (this.outcome !== undefined) this.outcome.externalId = [...String(externalId)].slice(0, ID_POINTS).join("");
  }

  /** Return why the call has ended, or undefined; an end is final, an expired lease is not. */
  recheck(): Code | undefined {
    if (this.#ended !== undefined) return this.#ended;
    const { identifier, restrictions, targets } = this.#proven;
    if (this.#epochs.timesMs(this.#clock())[1] >= restrictions.exp.at) return this.#end("expired");
    const [incarnation, born] = identifier.born;
    const refused = this.#epochs.check(incarnation, born, targets) ?? undefined;
    if (refused === "revoked" || refused === "frozen") return this.#end(refused);
    if (refused === undefined && this.#epochs.leaseLeftMs() < LIMITS.recheck_early) return "stale";
    return refused;
  }

  #end(code: Code): Code {
    this.#ended = code;
    this.#ending?.abort(new Refusal(code));
    return code;
  }
}
