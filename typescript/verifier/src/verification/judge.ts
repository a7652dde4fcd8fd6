// SPDX-License-Identifier: Apache-2.0
// Judge a call by everything that a proven token restricts.  SPEC 11, step 4 c to h.  It waits for nothing.

import { isInside, readPeer } from "../addresses.ts";
import { type Arguments, isPermitted, isTooMuch, type Rule, shorten } from "../constraints/rule.ts";
import { type Failure, Refusal, refuse } from "../errors.ts";
import { writeArguments } from "../json.ts";
import { LIMITS } from "../limits.ts";
import { type AccessRequest, UNSEEN_BODY } from "../request.ts";
import { callDigest, type PresentedCall } from "../token/call.ts";
import { isEqual } from "../token/chain.ts";
import type { KeyRing } from "../token/keyring.ts";
import type { Allow } from "./caveats.ts";
import { judgeHolder, type Proven } from "./prove.ts";
import type { ServiceLimits } from "./serviceLimits.ts";

export interface Judge {
  readonly audience: string;
  readonly keys: KeyRing;
  readonly limits: readonly ServiceLimits[];
}

/** A request, with its arguments as RFC 8785 writes them: null without such a form. */
export interface Asked extends AccessRequest { readonly form: string | null }

/** Refuse a call that the token or the service's limits do not allow. */
export function judge(judge: Judge, proven: Proven, request: Asked, times: readonly [number, number]): void {
  const isUnseen = judgeCircumstances(judge, proven, request, times);
  judgeTool(proven, request, isUnseen);
  for (const limits of judge.limits) {
    limits.judgeTool(request, isUnseen);
    limits.judgeApproval(request.tool, proven);
  }
  if (request.form === null) writeArguments(request.args);
  const unmet = proven.restrictions.unanswered.find(({ wanted }) => wanted.binds(request.tool));
  if (unmet !== undefined) {
    refuse("missing_discharge", unmet.place, "third-party caveat", `the discharge of ${unmet.wanted.id}`, "none");
  }
}

/** Refuse a request by all but its tool, which some requests do not have; return whether its body is not seen. */
export function judgeCircumstances(
  judge: Judge, proven: Proven, request: Asked, times: readonly [number, number],
): boolean {
  const { restrictions } = proven;
  if (restrictions.refusal !== undefined) throw restrictions.refusal;
  judgeTime(proven, times);
  const isUnseen = request.http !== undefined && isEqual(request.http.bodyDigest, UNSEEN_BODY);
  if (proven.call !== undefined) judgeCall(judge, proven, proven.call, request, isUnseen);
  else if (restrictions.needsCall || restrictions.holders.length > 0) {
    refuse("proof_missing", "call", "require", "a signed call", "none");
  }
  judgePeer(proven, request);
  for (const limits of judge.limits) limits.judgeCircumstances(request, times);
  return isUnseen;
}

/** Refuse a token that has ended, or has not begun: the end by the later clock, the beginning by the earlier one. */
export function judgeTime({ restrictions: { exp, nbf } }: Proven, [early, late]: readonly [number, number]): void {
  if (late >= exp.at) refuse("expired", exp.place, "exp", `before ${showTime(exp.at)}`, showTime(late));
  if (early < nbf.at) {
    const rule = nbf.place === "identifier" ? "iat" : "nbf";
    refuse("not_yet_valid", nbf.place, rule, `from ${showTime(nbf.at)} on`, showTime(early));
  }
}

function judgeCall(
  { audience, keys }: Judge, proven: Proven, call: PresentedCall, request: Asked, isUnseen: boolean,
): void {
  const age = request.at - call.issuedAt;
  if (age > LIMITS.call_age || age < -LIMITS.call_ahead) {
    refuse("proof_invalid", "call", "issued_at", `at most ${LIMITS.call_age} ms ago`, `${age} ms ago`);
  }
  judgeHolder(proven, call, keys);
  if (callDigest(audience, call.issuedAt, call.nonce, request, request.form) === call.digest) return;
  if (isUnseen) refuse("request_unseen");
  refuse("proof_invalid", "call", "digest", "a signature of this call", "one of another call");
}

function judgePeer({ restrictions }: Proven, request: AccessRequest): void {
  if (restrictions.nets.length === 0) return;
  const [peer, came] = [readPeer(request.peer), request.peer ?? "an unknown address"];
  for (const { place, networks, text } of restrictions.nets) {
    if (!isInside(networks, peer)) refuse("network_not_allowed", place, "net", text, came);
  }
}

function judgeTool({ restrictions }: Proven, { tool, args }: AccessRequest, isUnseen: boolean): void {
  const { allows, distinct, tests } = restrictions;
  for (const { place, rules } of allows) {
    if (tool === "" || !rules.some((rule) => rule.names(tool))) {
      refuse("tool_not_allowed", place, "tool", rules.map((rule) => rule.tool).join(" or "), shorten(tool));
    }
  }
  if (isTooMuch(tests, args)) refuse("argument_not_allowed", "request", "size of the arguments", "less work", "more");
  if (isPermitted(args, isUnseen, (test) => every(distinct, tool, test))) return;
  const refused = allows.filter(({ rules }) => !rules.some((rule) => rule.names(tool) && rule.permits(args)));
  throw new Refusal("argument_not_allowed", explain(refused, tool, args));
}

function every(allows: readonly Allow[], tool: string, test: (rule: Rule) => boolean): boolean {
  return allows.every(({ rules }) => rules.some((rule) => rule.names(tool) && test(rule)));
}

/** Return what the arguments violate; an argument that several rules refuse once, by the last of them (SPEC 13). */
function explain(refused: readonly Allow[], tool: string, args: Arguments): Failure[] {
  const asked = refused.map(({ place, rules }) => ({ place, rules: rules.filter((rule) => rule.names(tool)) }));
  const found = asked.flatMap(({ place, rules }) => {
    return rules.flatMap((rule) => rule.explain(args, place, LIMITS.failures));
  });
  if (asked.some(({ rules }) => rules.length > 1)) return found.slice(0, LIMITS.failures);
  const byArgument = new Map<string, Failure>();
  for (const failure of found.reverse()) {
    const name = failure.rule.split(" ")[0] as string;
    if (!byArgument.has(name)) byArgument.set(name, failure);
  }
  return [...byArgument.values()].slice(0, LIMITS.failures);
}

function showTime(at: number): string {
  const time = new Date(at);
  return Number.isNaN(time.getTime()) ? `${at} ms` : time.toISOString();
}

/** Return whether a token could allow some call of a tool; for lists of tools, no decision. */
export function couldAllow({ restrictions: { allows } }: Proven, tool: string): boolean {
  return every(allows, tool, () => true);
}
