// SPDX-License-Identifier: Apache-2.0
// Tests of scalars, numbers, lengths and lists of scalars.  SPEC 7.2.

import { type Json, lengthOf } from "../json.ts";
import { LIMITS } from "../limits.ts";

/** What a test makes of a value; a value of a kind that it does not speak of fails it, also under `not`. */
export const HOLDS = 1;
export const FAILS = 0;
export const UNSPOKEN = -1;
export type Outcome = typeof HOLDS | typeof FAILS | typeof UNSPOKEN;
export type Test = (value: unknown) => Outcome;

/** An operand that SPEC 7 does not allow. */
export class OperandError extends Error {
  override readonly name = "OperandError";
}

export type Scalar = string | number | boolean;
type Kind = "string" | "integer" | "boolean";

const DECIMAL = /^-?(?:0|[1-9][0-9]*)(?:\.[0-9]*[1-9])?$/;
// A caller's decimal may have zeros behind: 10.50 is an amount.
const DECIMAL_VALUE = /^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?$/;

export const outcome = (holds: boolean): Outcome => (holds ? HOLDS : FAILS);

export function kindOf(value: unknown): Kind | undefined {
  if (typeof value === "number") return Number.isSafeInteger(value) ? "integer" : undefined;
  return typeof value === "string" || typeof value === "boolean" ? (typeof value as Kind) : undefined;
}

function scalarOf(operand: Json): Scalar {
  if (kindOf(operand) === undefined) throw new OperandError("expected text, an integer, true or false");
  return operand as Scalar;
}

export function listOf(operand: Json, least = 1): Json[] {
  if (!Array.isArray(operand) || operand.length < least) throw new OperandError("expected a list that is not empty");
  return operand;
}

/** A set of scalars that knows the kinds of its items. */
class Scalars {
  readonly items: Set<Scalar>;
  readonly #kinds: Set<Kind | undefined>;

  constructor(operand: Json[]) {
    this.items = new Set(operand.map(scalarOf));
    this.#kinds = new Set(operand.map(kindOf));
  }

  speaksOf(value: unknown): boolean {
    const kind = kindOf(value);
    return kind !== undefined && this.#kinds.has(kind);
  }

  speaksOfAll(value: unknown): value is Scalar[] {
    return Array.isArray(value) && value.length <= LIMITS.list_items && value.every((item) => this.speaksOf(item));
  }
}

export function equal(operand: Json): Test {
  if (!Array.isArray(operand)) {
    const wanted = scalarOf(operand);
    const kind = kindOf(wanted);
    return (value) => (kindOf(value) !== kind ? UNSPOKEN : outcome(value === wanted || (value === 0 && wanted === 0)));
  }
  const kinds = new Scalars(operand);
  return (value) => {
    if (!kinds.speaksOfAll(value)) return UNSPOKEN;
    return outcome(value.length === operand.length && operand.every((item, at) => item === value[at]));
  };
}

/** Test whether a value is one of the items, or whether it is none. */
export function member(operand: Json, isOne: boolean): Test {
  const items = new Scalars(listOf(operand));
  return (value) => (items.speaksOf(value) ? outcome(items.items.has(value as Scalar) === isOne) : UNSPOKEN);
}

/** Test whether a list has all of the items, or whether it has no others. */
export function items(operand: Json, hasAll: boolean): Test {
  const wanted = new Scalars(listOf(operand, hasAll ? 1 : 0));
  return (value) => {
    if (!wanted.speaksOfAll(value)) return UNSPOKEN;
    const [some, all] = hasAll ? [[...wanted.items], new Set(value)] : [value, wanted.items];
    return outcome(some.every((item) => all.has(item)));
  };
}

/** A decimal, as an integer and the number of its digits behind the point: no double compares amounts. */
type Decimal = ReturnType<typeof plain>;

function decimalOf(value: unknown): Decimal | undefined {
  if (typeof value === "number") {
    if (!(Math.abs(value) <= LIMITS.integer)) return undefined;
    const [mantissa = "", exponent = "0"] = String(value).split("e");
    const { digits, scale } = plain(mantissa);
    return { digits, scale: scale - Number(exponent) }; // below 1e21 String writes no exponent above zero
  }
  if (typeof value !== "string" || value.length > LIMITS.decimal || !DECIMAL_VALUE.test(value)) return undefined;
  return plain(value);
}

function plain(text: string) {
  const [whole = "", fraction = ""] = text.split(".");
  return { digits: BigInt(whole + fraction), scale: fraction.length };
}

function isAtMost(one: Decimal, other: Decimal): boolean {
  const scale = Math.max(one.scale, other.scale);
  return one.digits * 10n ** BigInt(scale - one.scale) <= other.digits * 10n ** BigInt(scale - other.scale);
}

/** Test a closed range; either end may be open. */
export function between(low: Json | undefined, high: Json | undefined): Test {
  const bounds = [low, high].filter((bound) => bound !== undefined);
  if (bounds.every((bound) => typeof bound === "number" && Number.isSafeInteger(bound))) {
    const [least, most] = [(low ?? -LIMITS.integer) as number, (high ?? LIMITS.integer) as number];
    if (least > most) throw new OperandError("the lower bound is above the upper one");
    return (value) => {
      return Number.isSafeInteger(value) ? outcome(least <= Number(value) && Number(value) <= most) : UNSPOKEN;
    };
  }
  for (const bound of bounds) {
    if (typeof bound !== "string" || bound.length > LIMITS.decimal || !DECIMAL.test(bound)) {
      throw new OperandError("expected integers, or decimals as text without zeros behind");
    }
  }
  const least = low === undefined ? undefined : plain(low as string);
  const most = high === undefined ? undefined : plain(high as string);
  if (least !== undefined && most !== undefined && !isAtMost(least, most)) {
    throw new OperandError("the lower bound is above the upper one");
  }
  return (value) => {
    const amount = decimalOf(value);
    if (amount === undefined) return UNSPOKEN;
    return outcome((least === undefined || isAtMost(least, amount)) && (most === undefined || isAtMost(amount, most)));
  };
}

export function range(operand: Json): Test {
  const bounds = listOf(operand);
  if (bounds.length !== 2) throw new OperandError("expected two bounds");
  return between(bounds[0], bounds[1]);
}

/** Test the length of text in code points, or of a list in items. */
export function length(least: Json | undefined, most: Json | undefined): Test {
  for (const bound of [least, most]) {
    if (bound !== undefined && !(Number.isSafeInteger(bound) && (bound as number) >= 0)) {
      throw new OperandError("expected a length");
    }
  }
  const [shortest, longest] = [(least ?? 0) as number, (most ?? Number.POSITIVE_INFINITY) as number];
  if (shortest > longest) throw new OperandError("the lower length is above the upper one");
  return (value) => {
    const size = typeof value === "string" ? lengthOf(value) : Array.isArray(value) ? value.length : undefined;
    if (size === undefined) return UNSPOKEN;
    return outcome(shortest <= size && size <= longest);
  };
}
