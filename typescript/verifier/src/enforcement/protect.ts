// SPDX-License-Identifier: Apache-2.0
// Guard a function: one decision a call, and checks while it runs.  SPEC 11.

import { AsyncLocalStorage } from "node:async_hooks";
import { type Code, Refusal, SettingsError } from "../errors.ts";
import { copyArguments, type JsonObject } from "../json.ts";
import type { EffectResult } from "../journal/record.ts";
import { LIMITS } from "../limits.ts";
import { isTool } from "../names.ts";
import type { Grant } from "../verification/grant.ts";
import type { Verifier } from "../verification/verifier.ts";

const RUNNING = new AsyncLocalStorage<Grant>();

/** Return the grant of the call that runs here. */
export function currentGrant(): Grant {
  const grant = RUNNING.getStore();
  if (grant === undefined) throw new Error("no guarded call runs here");
  return grant;
}

/** Run allowed work until it is done or its grant has ended; a result is withheld if the grant has ended by then. */
async function runGranted<T>(grant: Grant, work: () => T | Promise<T>): Promise<T> {
  const ended = new Promise<never>((_, reject) => {
    grant.signal.addEventListener("abort", () => reject(grant.signal.reason), { once: true });
  });
  ended.catch(() => undefined);
  const timer = setInterval(() => grant.recheck(), LIMITS.recheck);
  let seen: EffectResult = "unknown"; // unless the work ends by itself
  const run = RUNNING.run(grant, async () => work()).catch((error: unknown) => {
    if (!grant.signal.aborted) seen = "failed";
    throw error;
  });
  try {
    const result = await Promise.race([run, ended]);
    if (grant.recheck() === undefined) seen = "done";
    await grant.outcome?.settle(seen);
    const code = grant.recheck(); // last: the record may have waited for its disk
    if (code !== undefined) throw new Refusal(code);
    return result;
  } finally {
    clearInterval(timer);
    await grant.outcome?.settle(seen);
  }
}

/** What a guarded function is called with beside its arguments. */
export interface CallOptions {
  readonly peer?: string;
}

/** Return a function that runs `run` only for a token that allows the tool with these arguments.
 *
 * `run` gets a copy of the arguments that were judged; what changes them later changes nothing.
 */
export function protect<T>(
  verifier: Verifier, tool: string, run: (args: JsonObject) => T | Promise<T>,
): (token: string | undefined, args: object, options?: CallOptions) => Promise<T> {
  if (!isTool(tool)) throw new SettingsError(`${JSON.stringify(tool)} is no tool such as orders.get`);
  return async (token, given, options = {}) => {
    const args = copyArguments(given);
    const request = { tool, args, at: verifier.clock(), peer: options.peer };
    const { grant, code, failures } = await verifier.authorize(token, request);
    if (grant === undefined) throw new Refusal(code as Code, failures);
    return runGranted(grant, () => run(args));
  };
}
