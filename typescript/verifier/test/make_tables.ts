// SPDX-License-Identifier: Apache-2.0
// `node test/make_tables.ts` writes `src/tables.json`, which has SPEC's reasons, limits and texts.

import { readFileSync, writeFileSync } from "node:fs";

export const OWN = new URL("../src/tables.json", import.meta.url);
export const TABLES = JSON.parse(readFileSync(new URL("../../../tests/vectors/tables.json", import.meta.url), "utf8"));

export function tables(): object {
  const { meaning, ...texts } = TABLES.texts;
  const reasons = TABLES.reasons.map(({ code, status, oauth_error, retry }: Record<string, string>) => {
    return [code, { status, oauthError: oauth_error, retry, meaning: meaning[code as string] }];
  });
  const limits = Object.entries<{ value: number }>(TABLES.limits).map(([name, { value }]) => [name, value]);
  return { reasons: Object.fromEntries(reasons), limits: Object.fromEntries(limits), texts };
}

if (import.meta.main) writeFileSync(OWN, `${JSON.stringify(tables(), null, 2)}\n`);
