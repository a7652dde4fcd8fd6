// SPDX-License-Identifier: Apache-2.0
// Compile a constraint, with its logic and its containers.  SPEC 7.2.

import { isObject, isPlainName, type Json, type JsonObject, own } from "../json.ts";
import { LIMITS } from "../limits.ts";
import { between, equal, FAILS, HOLDS, items, length, listOf, member, OperandError, outcome, range, type Test,
  UNSPOKEN } from "./scalars.ts";
import { cidr, glob, subpath, url } from "./text.ts";

/** A member's test, with the text of its operand for failures. */
export interface Member {
  readonly word: string;
  readonly operand: Json;
  readonly test: Test;
}

export interface Constraint {
  readonly members: readonly Member[];
  readonly optional: boolean;
  /** The number of its tests (SPEC 7.4). */
  readonly tests: number;
}

type Word = (operand: Json, context: Context) => { test: Test; inside?: number };

/** Where a constraint is: what may be inside it depends on that. */
interface Context {
  readonly depth: number;
  readonly inLogic: boolean;
  /** Whether it is for an item of a list. */
  readonly isItem: boolean;
  /** Whether a constraint around it is for every item of a list. */
  readonly isRepeated: boolean;
  readonly open: boolean;
}

const TOP: Context = { depth: 0, inLogic: false, isItem: false, isRepeated: false, open: false };

const leaf = (make: (operand: Json) => Test): Word => (operand) => ({ test: make(operand) });

const WORDS: Record<string, Word> = {
  equal: leaf(equal),
  one_of: leaf((operand) => member(operand, true)),
  none_of: leaf((operand) => member(operand, false)),
  range: leaf(range),
  min: leaf((operand) => between(operand, undefined)),
  max: leaf((operand) => between(undefined, operand)),
  length: leaf((operand) => length(operand, operand)),
  min_length: leaf((operand) => length(operand, undefined)),
  max_length: leaf((operand) => length(undefined, operand)),
  contains: leaf((operand) => items(operand, true)),
  subset: leaf((operand) => items(operand, false)),
  glob: leaf(glob),
  subpath: leaf(subpath),
  url: leaf(url),
  cidr: leaf(cidr),
  any: leaf((operand) => {
    requireTrue(operand);
    return () => HOLDS;
  }),
  all_of: logic((outcomes) => (outcomes.includes(UNSPOKEN) ? UNSPOKEN : outcome(!outcomes.includes(FAILS)))),
  any_of: logic((outcomes) => outcome(outcomes.includes(HOLDS))),
  not: (operand, context) => {
    return logic(([inside]) => (inside === UNSPOKEN ? UNSPOKEN : outcome(inside === FAILS)))([operand], context);
  },
  each,
  fields,
};

/** The members of a constraint, `tests/vectors/tables.json` has them as well. */
export const CONSTRAINT_MEMBERS: readonly string[] = [...Object.keys(WORDS), "open", "optional"];

/** Compile a constraint of a rule, or throw `OperandError`. */
export function compileConstraint(written: Json, context: Context = TOP): Constraint {
  if (!isObject(written)) {
    if (Array.isArray(written) || written === null) throw new OperandError("a constraint is a scalar or an object");
    return { members: [{ word: "equal", operand: written, test: equal(written) }], optional: false, tests: 1 };
  }
  const optional = flag(written, "optional");
  const open = flag(written, "open");
  if (open && !Object.hasOwn(written, "fields")) throw new OperandError("open without fields");
  if (optional && (context.inLogic || context.isItem)) throw new OperandError("optional in a list or in logic");
  const members: Member[] = [];
  let tests = 0;
  for (const [word, operand] of Object.entries(written)) {
    if (word === "optional" || word === "open") continue;
    const make = own(WORDS, word);
    if (make === undefined) throw new OperandError("a member that a constraint does not have");
    const { test, inside = 0 } = make(operand, { ...context, open });
    members.push({ word, operand, test });
    tests += 1 + inside;
  }
  const [least, most] = [own(written, "min"), own(written, "max")];
  if (typeof least === typeof most) between(least, most); // refuses bounds that cross
  length(own(written, "min_length"), own(written, "max_length"));
  if (members.length === 0) throw new OperandError("a constraint that tests nothing");
  return { members, optional, tests };
}

/** Judge a value that is there: each member must hold, and each must speak of it. */
export function judge(constraint: Constraint, value: unknown): ReturnType<Test> {
  let result: ReturnType<Test> = HOLDS;
  for (const { test } of constraint.members) {
    const one = test(value);
    if (one === UNSPOKEN) return UNSPOKEN;
    if (one === FAILS) result = FAILS;
  }
  return result;
}

function flag(written: JsonObject, name: string): boolean {
  const value = own(written, name);
  if (value !== undefined) requireTrue(value);
  return value === true;
}

function requireTrue(operand: Json): void {
  if (operand !== true) throw new OperandError("expected true");
}

function logic(join: (outcomes: ReturnType<Test>[]) => ReturnType<Test>): Word {
  return (operand, context) => {
    if (context.inLogic) throw new OperandError("logic inside logic");
    const inner = listOf(operand).map((one) => compileConstraint(one, { ...context, inLogic: true }));
    return { test: (value) => join(inner.map((one) => judge(one, value))), inside: weigh(inner) };
  };
}

function each(operand: Json, context: Context): { test: Test; inside: number } {
  const several = Array.isArray(operand);
  if (!several && context.isRepeated) throw new OperandError("each with one constraint inside another one");
  const inside = deeper({ ...context, isItem: true, isRepeated: context.isRepeated || !several });
  const inner = (several ? operand : [operand]).map((one) => compileConstraint(one, inside));
  const test: Test = (value) => {
    if (!Array.isArray(value) || (!several && value.length > LIMITS.each_items)) return UNSPOKEN;
    if (several && value.length !== inner.length) return FAILS;
    return outcome(value.every((item, at) => judge(inner[several ? at : 0] as Constraint, item) === HOLDS));
  };
  return { test, inside: weigh(inner) };
}

function fields(operand: Json, context: Context): { test: Test; inside: number } {
  if (!isObject(operand)) throw new OperandError("expected an object of constraints");
  const inside = deeper({ ...context, isItem: false });
  const inner = Object.entries(operand).map(([name, one]): [string, Constraint] => {
    if (!isPlainName(name)) throw new OperandError("a name that is empty or beyond U+FFFF");
    return [name, compileConstraint(one, inside)];
  });
  const names = new Set(inner.map(([name]) => name));
  const test: Test = (value) => {
    if (!isObject(value)) return UNSPOKEN;
    if (!context.open && Object.keys(value).some((name) => !names.has(name))) return FAILS;
    return outcome(inner.every(([name, one]) => {
      return Object.hasOwn(value, name) ? judge(one, value[name]) === HOLDS : one.optional;
    }));
  };
  return { test, inside: weigh(inner.map(([, one]) => one)) };
}

function deeper(context: Context): Context {
  if (context.inLogic) throw new OperandError("each or fields inside logic");
  if (context.depth >= LIMITS.nesting) throw new OperandError("containers nest too deep");
  return { ...context, depth: context.depth + 1 };
}

function weigh(inner: Constraint[]): number {
  return inner.reduce((sum, one) => sum + one.tests, 0);
}
