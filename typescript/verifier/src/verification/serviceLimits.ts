// SPDX-License-Identifier: Apache-2.0
// Limits of a service: what it requires of each call beside its token.  SPEC 20.

import { isInside, type Network, readNetwork, readPeer } from "../addresses.ts";
import { compileRules, isPermitted, isTooMuch, type Rule, shorten } from "../constraints/rule.ts";
import { OperandError } from "../constraints/scalars.ts";
import { Refusal, refuse, SettingsError } from "../errors.ts";
import { isObject, type Json, own, writeCanonical } from "../json.ts";
import { LIMITS } from "../limits.ts";
import { isToolPattern, matchesTool } from "../names.ts";
import type { AccessRequest } from "../request.ts";
import { isEqual, sha256 } from "../token/chain.ts";
import type { Proven } from "./prove.ts";

/** Limits as a service writes them. */
export interface LimitsInput {
  readonly rules?: readonly unknown[];
  readonly net?: readonly string[];
  readonly hours?: readonly string[];
  readonly approve?: readonly string[];
}

const CODE = "over_service_limit";
const PLACE = "service";
const MEMBERS = ["rules", "net", "hours", "approve"];
const HOURS = /^(?:(mon|tue|wed|thu|fri|sat|sun)(?:-(mon|tue|wed|thu|fri|sat|sun))? )?(\d\d):(\d\d)-(\d\d):(\d\d)$/;
const DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
type Span = ReturnType<typeof readHours>;
const [MINUTE, DAY, THURSDAY] = [60_000, 86_400_000, 3];

export class ServiceLimits {
  readonly #rules: readonly Rule[];
  readonly #net: readonly Network[];
  readonly #hours: readonly Span[];
  readonly #approve: readonly string[];
  readonly #texts: { readonly net: string; readonly hours: string };
  /** What identifies these limits in the verifier's name, 16 hex digits (SPEC 20.1). */
  readonly digest: string;

  constructor(written: LimitsInput) {
    if (!isObject(written)) throw new SettingsError("limits: expected an object");
    const odd = Object.keys(written).find((name) => !MEMBERS.includes(name));
    if (odd !== undefined) throw new SettingsError(`limits: expected ${MEMBERS.join(", ")}, got ${shorten(odd)}`);
    if (Object.keys(written).length === 0) throw new SettingsError(`limits: expected ${MEMBERS.join(", ")}, got none`);
    const items = (name: string): Json[] => {
      const value = own(written, name);
      if (value === undefined) return [];
      if (!Array.isArray(value) || value.length === 0) throw new SettingsError(`limits: ${name}: expected a list`);
      return value;
    };
    try {
      this.#rules = items("rules").length > 0 ? compileRules(items("rules")) : [];
    } catch (error) {
      if (error instanceof OperandError) throw new SettingsError(`limits: rules: ${error.message}`);
      throw error;
    }
    this.#net = items("net").map((text) => readNetwork(text) ?? odder("net", text));
    this.#hours = items("hours").map(readHours);
    this.#approve = items("approve").map((text) => (isToolPattern(text) ? text : odder("approve", text)));
    this.#texts = { net: items("net").join(" or "), hours: items("hours").join(" or ") };
    this.digest = sha256(writeCanonical(written)).toString("hex").slice(0, 16);
  }

  /** Refuse a request from another network, or at another time. */
  judgeCircumstances(request: AccessRequest, times: readonly [number, number]): void {
    if (this.#net.length > 0 && !isInside(this.#net, readPeer(request.peer))) {
      refuse(CODE, PLACE, "net", this.#texts.net, request.peer ?? "an unknown address");
    }
    if (this.#hours.length > 0 && !times.every((at) => this.#hours.some((span) => isWithin(span, at)))) {
      refuse(CODE, PLACE, "hours", `${this.#texts.hours} UTC`, new Date(request.at).toISOString());
    }
  }

  /** Refuse a call that no rule is about, or that one about its tool does not permit. */
  judgeTool({ tool, args }: AccessRequest, isUnseen: boolean): void {
    if (this.#rules.length === 0) return;
    const rules = this.#rules.filter((rule) => rule.names(tool));
    const named = this.#rules.map((rule) => rule.tool).join(" or ");
    if (rules.length === 0) refuse(CODE, PLACE, "tool", named, shorten(tool));
    const tests = rules.reduce((sum, rule) => sum + rule.tests, 0);
    if (isTooMuch(tests, args)) refuse(CODE, PLACE, "size of the arguments", "less work", "more");
    if (isPermitted(args, isUnseen, (test) => rules.every(test))) return;
    const failures = rules.flatMap((rule) => rule.explain(args, PLACE, LIMITS.failures));
    throw new Refusal(CODE, failures.slice(0, LIMITS.failures));
  }

  /** Refuse a call that needs an approval of the mint, by a token that asks for none. */
  judgeApproval(tool: string, { restrictions, key }: Proven): void {
    if (!this.#approve.some((pattern) => matchesTool(pattern, tool))) return;
    if (restrictions.unanswered.some(({ wanted }) => wanted.binds(tool))) return; // refused with its own code
    const approved = restrictions.approvals.some(({ wanted, key: given }) => {
      return wanted.binds(tool) && isEqual(key.approvalKey(wanted.id), given);
    });
    if (!approved) refuse(CODE, PLACE, "approve", "an approval of this call", "none");
  }

  /** Return whether some call of a tool is within the rules; for lists of tools, no decision. */
  couldAllow(tool: string): boolean {
    return this.#rules.length === 0 || this.#rules.some((rule) => rule.names(tool));
  }
}

function odder(name: string, value: Json): never {
  throw new SettingsError(`limits: ${name}: ${shorten(value)} is not of a form of SPEC 20`);
}

function readHours(text: Json) {
  const found = typeof text === "string" ? HOURS.exec(text) : null;
  if (found === null) return odder("hours", text);
  const [, first, last] = found;
  const [hour, minute, toHour, toMinute] = found.slice(3).map(Number) as [number, number, number, number];
  const [begin, end] = [60 * hour + minute, 60 * toHour + toMinute];
  const [from, to] = [DAYS.indexOf(first ?? "mon"), DAYS.indexOf(last ?? first ?? "sun")];
  if (minute > 59 || toMinute > 59 || begin >= end || end > 24 * 60 || from > to) return odder("hours", text);
  return { from, to, begin: begin * MINUTE, end: end * MINUTE };
}

function isWithin({ from, to, begin, end }: Span, at: number): boolean {
  const day = (Math.floor(at / DAY) + THURSDAY) % 7;
  const ms = at % DAY;
  return from <= day && day <= to && begin <= ms && ms < end;
}
