// SPDX-License-Identifier: Apache-2.0
// The identifier of a token.  SPEC 4.

import { refuse } from "../errors.ts";
import { type JsonObject, lengthOf, own, readForm } from "../json.ts";
import { LIMITS } from "../limits.ts";
import { bytesOf, type Check, type Checked, isAgentPath, isPlain } from "../names.ts";
import type { KeyRing } from "./keyring.ts";

const MINT = "arx.mint"; // its tokens have no task

export const isText = (most: number = LIMITS.tool, least = 1): Check<string> => (value): value is string => {
  if (typeof value !== "string") return false;
  const length = lengthOf(value);
  return length >= least && length <= most;
};
export const isNatural = (most: number = LIMITS.integer, least = 0): Check<number> => (value): value is number => {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= least && value <= most;
};
export const isPair = <A, B>(first: Check<A>, second: Check<B>) => (value: unknown): value is readonly [A, B] => {
  return Array.isArray(value) && value.length === 2 && first(value[0]) && second(value[1]);
};
const isKey = isText(43, 43);
const isAbout = isText(LIMITS.meta_text, 0);
const isSubject = isText(LIMITS.subject_text, 0);

const isMeta: Check<readonly string[]> = (value): value is string[] => {
  return Array.isArray(value) && value.length >= 1 && value.length <= 3 && value.every(isAbout);
};

const REQUIRED = {
  agent: isText(),
  aud: isText(),
  born: isPair(isText(), isNatural()),
  depth: isNatural(LIMITS.delegations),
  exp: isNatural(),
  iat: isNatural(),
  id: isText(22, 22),
  kid: isText(),
  session: isText(),
  v: isNatural(1, 1),
};
const OPTIONAL = {
  aud_key: isKey,
  holder: isKey,
  meta: isMeta,
  model: isText(),
  policy: isText(),
  subject: isPair(isSubject, isSubject),
  task: isText(),
  vouched: isNatural(LIMITS.delegations, 1),
};
const AGENTS: Record<string, Check<unknown>> = { ...REQUIRED, ...OPTIONAL };
const { aud, exp, iat, id, kid, v } = REQUIRED;
const OPERATORS: Record<string, Check<unknown>> = { aud, exp, iat, id, kid, operator: isText(), v };

export type Identifier = Checked<typeof REQUIRED> & Partial<Checked<typeof OPTIONAL>>;

export const IDENTIFIER_MEMBERS: readonly string[] = Object.keys(AGENTS);

/** Read the form of an identifier (SPEC 11, step 1), or refuse it with `malformed`; nothing of it is proven. */
export function readIdentifier(raw: Buffer): JsonObject {
  const read = readForm(raw, "malformed");
  const checks = Object.hasOwn(read, "operator") ? OPERATORS : AGENTS;
  for (const [name, check] of Object.entries(checks)) {
    const value = own(read, name);
    if (value === undefined ? !Object.hasOwn(OPTIONAL, name) : !check(value)) refuse("malformed");
  }
  for (const name of Object.keys(read)) if (!Object.hasOwn(checks, name)) refuse("malformed");
  return read;
}

/** Check what the values of a proven identifier say (SPEC 11, step 4 a). */
export function checkIdentifier(read: JsonObject, keys: KeyRing): Identifier {
  if (Object.hasOwn(read, "operator")) refuse("malformed");
  const it = read as unknown as Identifier;
  const life = it.exp - it.iat;
  if (life <= 0 || life > keys.maxTtlMs) refuse("malformed");
  const isBound = it.holder !== undefined;
  if (isBound !== (it.aud_key !== undefined) || (it.vouched !== undefined && !isBound)) refuse("malformed");
  if (isBound && it.aud_key !== keys.get(it.kid)?.publicKey) refuse("malformed");
  if ((it.task === undefined) !== (it.aud === MINT) || bytesOf(it.id, 16) === undefined) refuse("malformed");
  if (!isAgentPath(it.agent) || !isPlain(it.session) || !isPlain(it.task ?? it.session)) refuse("malformed");
  if (it.policy !== undefined && !isPlain(it.policy)) refuse("malformed");
  return it;
}
