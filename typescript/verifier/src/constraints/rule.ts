// SPDX-License-Identifier: Apache-2.0
// A rule: a tool, and what its arguments may be.  SPEC 7.1, 7.4, 8.5.

import { type Failure, refuse } from "../errors.ts";
import { isObject, isPlainName, type Json, lengthOf } from "../json.ts";
import { LIMITS } from "../limits.ts";
import { isToolPattern, matchesTool } from "../names.ts";
import { type Constraint, compileConstraint, judge } from "./constraint.ts";
import { HOLDS, OperandError } from "./scalars.ts";

export const RULE_MEMBERS: readonly string[] = ["args", "open", "tool"];

export type Arguments = { readonly [name: string]: unknown };

/** A compiled rule. */
export class Rule {
  readonly tool: string;
  readonly open: boolean;
  readonly args: ReadonlyMap<string, Constraint> | undefined;
  /** The number of its tests, itself included (SPEC 7.4). */
  readonly tests: number;

  /** Compile a rule, or throw `OperandError`. */
  constructor(written: Json) {
    if (!isObject(written)) throw new OperandError("a rule is an object");
    for (const name of Object.keys(written)) {
      if (!RULE_MEMBERS.includes(name)) throw new OperandError("a member that a rule does not have");
    }
    const { tool, args, open } = { __proto__: null, ...written } as { tool?: Json; args?: Json; open?: Json };
    if (!isToolPattern(tool)) throw new OperandError("expected a tool, 'prefix.*' or '*'");
    if (open !== undefined && open !== true) throw new OperandError("open is written as true only");
    this.tool = tool;
    this.open = open === true || args === undefined;
    this.args = args === undefined ? undefined : compileAll(args);
    this.tests = [...(this.args?.values() ?? [])].reduce((sum, one) => sum + one.tests, 1);
  }

  names(tool: string): boolean {
    return matchesTool(this.tool, tool);
  }

  permits(args: Arguments): boolean {
    for (const [name, constraint] of this.args ?? []) {
      if (Object.hasOwn(args, name) ? judge(constraint, args[name]) !== HOLDS : !constraint.optional) return false;
    }
    return this.#namesAll(args);
  }

  /** Return whether some call with these arguments, and any others, is permitted. */
  couldPermit(known: Arguments): boolean {
    for (const [name, constraint] of this.args ?? []) {
      if (Object.hasOwn(known, name) && judge(constraint, known[name]) !== HOLDS) return false;
    }
    return this.#namesAll(known);
  }

  /** Return whether each call with these arguments, and any others, is permitted. */
  permitsWithAny(known: Arguments): boolean {
    const names = [...(this.args?.keys() ?? [])];
    return this.open && names.every((name) => Object.hasOwn(known, name)) && this.permits(known);
  }

  #namesAll(args: Arguments): boolean {
    return this.open || Object.keys(args).every((name) => this.args?.has(name));
  }

  /** Return what the arguments violate: a failure for each, at most `most`. */
  explain(args: Arguments, place: string, most: number): Failure[] {
    const failures: Failure[] = [];
    const add = (rule: string, expected: string, came: string): void => {
      failures.push({ place, rule, expected, came });
    };
    for (const [name, { members, optional }] of this.args ?? []) {
      const isGiven = Object.hasOwn(args, name);
      const member = isGiven && members.find(({ test }) => test(args[name]) !== HOLDS);
      if (member) add(`${shown(name)} ${member.word}`, shorten(member.operand), shorten(args[name]));
      else if (!isGiven && !optional) add(shown(name), "given", "nothing");
    }
    const others = this.open ? [] : Object.keys(args).filter((name) => !this.args?.has(name)).slice(0, most);
    for (const name of others) add(shown(name), "left out", shorten(args[name]));
    return failures.slice(0, most);
  }
}

function compileAll(args: Json): Map<string, Constraint> {
  if (!isObject(args)) throw new OperandError("args is an object");
  const made = new Map<string, Constraint>();
  for (const [name, constraint] of Object.entries(args)) {
    if (!isPlainName(name)) throw new OperandError("a name that is empty or beyond U+FFFF");
    made.set(name, compileConstraint(constraint));
  }
  return made;
}

type Every = (test: (rule: Rule) => boolean) => boolean;

/** Return whether all rules about a call permit it; refuse a call whose unseen body could show that they do. */
export function isPermitted(args: Arguments, isUnseen: boolean, every: Every): boolean {
  if (!isUnseen) return every((rule) => rule.permits(args));
  if (every((rule) => rule.permitsWithAny(args))) return true;
  return every((rule) => rule.couldPermit(args)) ? refuse("request_unseen") : false;
}

/** Compile the rules of an `allow`, or throw `OperandError`. */
export function compileRules(written: Json): Rule[] {
  if (!Array.isArray(written) || written.length === 0) throw new OperandError("expected rules");
  return written.map((one) => new Rule(one));
}

/** Return the size of arguments (SPEC 7.4), counted up to a bound. */
export function sizeOf(args: Arguments, bound: number = LIMITS.work): number {
  const waiting: unknown[] = [args];
  let size = 0;
  while (waiting.length > 0 && size <= bound) {
    const value = waiting.pop();
    if (typeof value === "string") size += lengthOf(value);
    else if (typeof value === "object" && value !== null) {
      const items = Array.isArray(value) ? value : Object.values(value);
      size += items.length;
      for (const item of items) if (typeof item === "string" || typeof item === "object") waiting.push(item);
    }
  }
  return size;
}

/** Return whether so many tests of these arguments are too much work. */
export function isTooMuch(tests: number, args: Arguments): boolean {
  return tests > LIMITS.free_tests && tests * sizeOf(args) > LIMITS.work;
}

const SHOWN = 80;

/** Return a short text of a value, for people. */
export function shorten(value: unknown): string {
  let text: string;
  if (typeof value === "object" && value !== null) {
    text = Array.isArray(value) ? `a list of ${value.length}` : `an object of ${Object.keys(value).length}`;
  } else text = typeof value === "string" ? JSON.stringify(value.slice(0, SHOWN + 1)) : String(value);
  return text.length > SHOWN ? `${text.slice(0, SHOWN)}…` : text;
}

function shown(name: string): string {
  return shorten(name).replace(/^"|"$/g, "");
}
