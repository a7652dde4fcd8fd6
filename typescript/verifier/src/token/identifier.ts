// SPDX-License-Identifier: Apache-2.0
// The identifier of a token.  SPEC 4.

import { refuse } from "../errors.ts";
import { type JsonObject, lengthOf, own, readForm } from "../json.ts";
import { LIMITS } from "../limits.ts";
import { bytesOf, isAgentPath, isPlain } from "../names.ts";
import type { KeyRing } from "./keyring.ts";

export interface Identifier {
  readonly agent: string;
  readonly aud: string;
  readonly aud_key?: string;
  readonly born: readonly [string, number];
  readonly depth: number;
  readonly exp: number;
  readonly holder?: string;
  readonly iat: number;
  readonly id: string;
  readonly kid: string;
  readonly meta?: readonly string[];
  readonly model?: string;
  readonly policy?: string;
  readonly session: string;
  readonly subject?: readonly [string, string];
  readonly task?: string;
  readonly v: 1;
  readonly vouched?: number;
}

const MINT = "arx.mint"; // its tokens have no task

type Check = (value: unknown) => boolean;

export const isText = (most: number = LIMITS.tool, least = 1): Check => (value) => {
  if (typeof value !== "string") return false;
  const length = lengthOf(value);
  return length >= least && length <= most;
};
export const isNatural = (most: number = LIMITS.integer, least = 0): Check => (value) => {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= least && value <= most;
};
const isList = (checks: readonly Check[]): Check => (value) => {
  return Array.isArray(value) && value.length === checks.length && checks.every((check, at) => check(value[at]));
};
const isKey = isText(43, 43);
const isAbout = isText(LIMITS.meta_text, 0);
const isSubject = isText(LIMITS.subject_text, 0);

const AGENTS: Record<string, Check> = {
  agent: isText(),
  aud: isText(),
  aud_key: isKey,
  born: isList([isText(), isNatural()]),
  depth: isNatural(LIMITS.delegations),
  exp: isNatural(),
  holder: isKey,
  iat: isNatural(),
  id: isText(22, 22),
  kid: isText(),
  meta: (value) => Array.isArray(value) && value.length >= 1 && value.length <= 3 && value.every(isAbout),
  model: isText(),
  policy: isText(),
  session: isText(),
  subject: isList([isSubject, isSubject]),
  task: isText(),
  v: isNatural(1, 1),
  vouched: isNatural(LIMITS.delegations, 1),
};
const OPTIONAL = new Set(["aud_key", "holder", "meta", "model", "policy", "subject", "task", "vouched"]);
const OPERATORS: Record<string, Check> = Object.fromEntries(
  ["aud", "exp", "iat", "id", "kid", "v"].map((name) => [name, AGENTS[name] as Check]),
);
OPERATORS["operator"] = isText();

export const IDENTIFIER_MEMBERS: readonly string[] = Object.keys(AGENTS);

/** Read the form of an identifier (SPEC 11, step 1), or refuse it with `malformed`; nothing of it is proven. */
export function readIdentifier(raw: Buffer): JsonObject {
  const read = readForm(raw, "malformed");
  const checks = Object.hasOwn(read, "operator") ? OPERATORS : AGENTS;
  for (const [name, check] of Object.entries(checks)) {
    const value = own(read, name);
    if (value === undefined ? !OPTIONAL.has(name) : !check(value)) refuse("malformed");
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
