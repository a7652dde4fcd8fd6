// SPDX-License-Identifier: Apache-2.0
// The reason codes of a refusal, and what a caller reads of them.  SPEC 13, 19.3.

export interface Reason {
  readonly status: number;
  readonly oauthError: string | null;
  readonly retry: string;
  readonly meaning: string;
}

const TOKEN = [401, "invalid_token"] as const;
const SCOPE = [403, "insufficient_scope"] as const;
const LATER = [503, null] as const;
const ANEW = "with a new token";
const SIGN = "sign anew";
const WAIT = "after Retry-After";

type Row = readonly [kind: readonly [number, string | null], retry: string, meaning: string];

const ROWS = {
  missing_token: [[401, null], "with a token", "the request carries no token"],
  malformed_request: [[400, "invalid_request"], "with a well-formed request", "the request cannot be read in exactly one way"],
  malformed: [TOKEN, ANEW, "the token is not a canonical ARx token of this version"],
  unknown_key: [TOKEN, ANEW, "the token was made with a key that this service does not have"],
  bad_signature: [TOKEN, ANEW, "the token was altered, or was not made for this service's key"],
  unknown_caveat: [TOKEN, ANEW, "the token has a caveat that this version does not know"],
  wrong_audience: [TOKEN, ANEW, "the token is for another service"],
  not_yet_valid: [TOKEN, ANEW, "the token is not valid yet"],
  expired: [TOKEN, ANEW, "the token has expired"],
  revoked: [
    TOKEN, "no", "an operator ended this work, or its session did: stop, and report it; a thawed agent needs a new task",
  ],
  frozen: [
    TOKEN, "no", "an operator froze this work, or ended an agent or a person that it depends on: stop, and report it",
  ],
  missing_discharge: [SCOPE, "after approval", "the call needs an approval that was not presented: request it"],
  tool_not_allowed: [SCOPE, "no", "the token does not allow this tool"],
  argument_not_allowed: [SCOPE, "no", "the token does not allow these arguments"],
  request_unseen: [
    [403, null], "no",
    "the decision needs the body of the request, which is not seen here: make the call at another address",
  ],
  too_deep: [SCOPE, "no", "the token was delegated more often than it allows"],
  name_not_allowed: [SCOPE, "no", "the token was delegated to an agent that it does not allow"],
  network_not_allowed: [SCOPE, "no", "the token does not allow calls from this address"],
  over_service_limit: [SCOPE, "no", "the service's own limits do not allow the call, whatever its token allows"],
  already_used: [SCOPE, "no", "a one-time approval is used up"],
  insufficient_budget: [SCOPE, "no", "a budget of the token has less left than the call costs"],
  budget_exhausted: [SCOPE, "no", "a budget of the token has nothing left"],
  budget_unsupported: [
    SCOPE, "no", "the token has a budget, and this service keeps none or declares no cost of the tool in it",
  ],
  after_mark: [SCOPE, "no", "what this session has done before does not allow the call"],
  mark_missing: [SCOPE, "no", "the call needs something that this session has not done yet"],
  mark_unsupported: [SCOPE, "no", "the token has rules about marks, and this service keeps none"],
  withheld: [SCOPE, "no", "entries of a memory were withheld, as they are not trusted"],
  proof_missing: [TOKEN, SIGN, "the token requires a signature of each call, and this call has none: sign it"],
  proof_invalid: [TOKEN, SIGN, "the signature is for another call, or too old: sign this call anew"],
  replayed: [TOKEN, SIGN, "this call was made before: sign it anew"],
  syncing: [LATER, WAIT, "this verifier is still loading the revocation epoch"],
  stale: [LATER, WAIT, "this verifier's view of the revocation epoch is too old"],
  behind: [LATER, WAIT, "this verifier has not applied the revocation epoch of this token yet"],
  fenced: [LATER, WAIT, "this verifier does not trust its revocation store"],
  closed: [LATER, WAIT, "this verifier is shut down"],
  store_unavailable: [LATER, WAIT, "a store that the decision needs did not answer"],
  audit_unavailable: [LATER, WAIT, "the decision could not be recorded"],
} as const satisfies Record<string, Row>;

/** A reason code of SPEC 13. */
export type Code = keyof typeof ROWS;

export const REASONS = Object.fromEntries(
  Object.entries(ROWS).map(([code, [[status, oauthError], retry, meaning]]) => [
    code, Object.freeze({ status, oauthError, retry, meaning }),
  ]),
) as Record<Code, Reason>;

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
