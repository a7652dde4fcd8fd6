// SPDX-License-Identifier: Apache-2.0
// What a language model reads of a refusal.  SPEC 19.

import { type Code, type Failure, REASONS } from "../errors.ts";

export const ADVICE: Readonly<Record<string, string>> = Object.freeze({
  no: "Do not repeat this call. Make one that is allowed, or say that this is not permitted.",
  "after approval": "Do not repeat this call before an operator has approved it. Say that the approval is needed, and go on without it.",
  "sign anew": "You may try this call once more.",
  "after Retry-After": "Try this call again in some seconds.",
  "with a new token": "No other call will work with this token: stop, and say so.",
  "with a token": "No call will work without a token: stop, and say so.",
  "with a well-formed request": "Correct the call before you make it again.",
});

export const ENDED: Readonly<Record<string, string>> = Object.freeze({
  revoked: "An operator ended this work, or its session did. Stop now, call no other tool, and say so.",
  frozen: "An operator froze this work. Stop now, call no other tool, and say so.",
});

export const WHY: Readonly<Record<string, string>> = Object.freeze({
  missing_discharge: "an operator has to approve this call with exactly these arguments, and no approval came with it",
});

export const RULES: Readonly<Record<string, string>> = Object.freeze({
  after: "the session must not have",
  arguments: "the arguments must be",
  approve: "the call must have",
  aud: "the service must be",
  delegate_to: "the next holder must match",
  digest: "the call must have",
  distinct: "the call must have",
  entry: "each entry must be",
  exp: "the token must be used",
  hours: "the call must be made in",
  iat: "the token must be issued",
  issued_at: "the call must be signed",
  member: "the caveat must have only",
  marks: "the call must be made",
  nbf: "the token must be used",
  net: "the caller's address must be in",
  nonce: "the call must have",
  once: "the approval must be",
  only_after: "the session must have",
  require: "the token must be",
  "size of the arguments": "the request must have",
  spend: "the budget must have",
  start: "the call must be signed",
  "third-party caveat": "the call must come with",
  tool: "the tool must be",
});

export const ARGUMENTS: Readonly<Record<string, string>> = Object.freeze({
  equal: "must be",
  one_of: "must be one of",
  none_of: "must be none of",
  range: "must be between",
  min: "must be at least",
  max: "must be at most",
  glob: "must match",
  subpath: "must be a path at or below",
  url: "must be a URL with",
  cidr: "must be an address in",
  length: "must have a length of",
  min_length: "must have a length of at least",
  max_length: "must have a length of at most",
  contains: "must contain all of",
  subset: "must have only items of",
  any: "must be given, which is",
  all_of: "must satisfy all of",
  any_of: "must satisfy one of",
  not: "must not satisfy",
  each: "must be a list whose items satisfy",
  fields: "must be an object with the fields",
});

const [LONGEST, FAILURES] = [600, 3];

/** Return the paragraph that a model reads of a refusal. */
export function refusalText(code: Code, failures: readonly Failure[], tool: string | undefined, id: string): string {
  const decision = id === "" ? "" : ` (decision ${id})`;
  const ended = ENDED[code];
  if (ended !== undefined) return ended + decision;
  const said = failures.slice(0, FAILURES).map(failureText).join("; ");
  const why = WHY[code] ?? (said === "" ? REASONS[code].meaning : said);
  return `${tool ?? "The call"} was refused: ${shortened(why)}. ${ADVICE[REASONS[code].retry]}${decision}`;
}

function shortened(text: string): string {
  const points = [...text.replace(/\s+/g, " ").replace(/\.$/, "")];
  return points.length > LONGEST ? `${points.slice(0, LONGEST - 1).join("")}…` : points.join("");
}

function failureText({ rule, expected, came }: Failure): string {
  if (rule === "shape") return came;
  const at = rule.lastIndexOf(" ");
  const [name, member] = [rule.slice(0, at), rule.slice(at + 1)];
  const known = RULES[rule.startsWith("delegate_to of ") ? "delegate_to" : rule];
  const ofArgument = at > 0 ? ARGUMENTS[member] : undefined;
  const begins = known ?? (ofArgument === undefined ? `${rule} must be` : `${name} ${ofArgument}`);
  return `${begins} ${expected}, got ${came}`;
}
