// SPDX-License-Identifier: Apache-2.0
// Errors, and the reason codes of a refusal with what a caller reads of them.  SPEC 13, 19.3.

import tables from "./tables.json" with { type: "json" };

/** A reason code of SPEC 13. */
export type Code = keyof typeof tables.reasons;

export const REASONS = tables.reasons;

/** What was expected at a place of the chain, and what came; never a key, a token or a signature. */
export interface Failure {
  readonly place: string;
  readonly rule: string;
  readonly expected: string;
  readonly came: string;
}

/** A refusal with its reason code. */
export class Refusal extends Error {
  override readonly name = "Refusal";
  readonly code: Code;
  readonly failures: readonly Failure[];

  constructor(code: Code, failures: readonly Failure[] = []) {
    super(REASONS[code].meaning);
    this.code = code;
    this.failures = failures;
  }
}

/** Refuse with a code, and with what was expected if that may be known. */
export function refuse(code: Code, place?: string, rule = "", expected = "", came = ""): never {
  throw new Refusal(code, place === undefined ? [] : [{ place, rule, expected, came }]);
}

/** A setting, a URL or a file that cannot be used: the program does not start. */
export class SettingsError extends Error {
  override name = "SettingsError";
}

/** A decision that cannot be recorded. */
export class AuditError extends Error {
  override name = "AuditError";
}

/** The connection failed, timed out or broke the protocol, and must be dropped. */
export class FeedError extends Error {}
