// SPDX-License-Identifier: Apache-2.0
// What a language model reads of a refusal.  SPEC 19.

import { type Code, type Failure, REASONS } from "../errors.ts";
import { cut, own } from "../json.ts";
import tables from "../tables.json" with { type: "json" };

const { advice, ended, why, rule: rules, argument } = tables.texts;
const [LONGEST, FAILURES] = [600, 3];

/** Return the paragraph that a model reads of a refusal. */
export function refusalText(code: Code, failures: readonly Failure[], tool: string | undefined, id: string): string {
  const decision = id === "" ? "" : ` (decision ${id})`;
  const end = own<string>(ended, code);
  if (end !== undefined) return end + decision;
  const said = failures.slice(0, FAILURES).map(failureText).join("; ");
  const reason = own<string>(why, code) ?? (said === "" ? REASONS[code].meaning : said);
  const short = cut(reason.replace(/\s+/g, " ").replace(/\.$/, ""), LONGEST);
  return `${tool ?? "The call"} was refused: ${short}. ${own<string>(advice, REASONS[code].retry)}${decision}`;
}

function failureText({ rule, expected, came }: Failure): string {
  if (rule === "shape") return came;
  const at = rule.lastIndexOf(" ");
  const [name, member] = [rule.slice(0, at), rule.slice(at + 1)];
  const known = own<string>(rules, rule.startsWith("delegate_to of ") ? "delegate_to" : rule);
  const ofArgument = at > 0 ? own<string>(argument, member) : undefined;
  const begins = known ?? (ofArgument === undefined ? `${rule} must be` : `${name} ${ofArgument}`);
  return `${begins} ${expected}, got ${came}`;
}
