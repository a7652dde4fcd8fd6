// SPDX-License-Identifier: Apache-2.0
/** The vectors of the families `epochs`, `journal` and `records`, and the answers to them. */

import fs from "node:fs";
import { FeedError } from "../src/errors.ts";
import type { Decision } from "../src/journal/record.ts";
import { Following, type StoreAnswer } from "../src/revocation/follower_core.ts";
import type { EpochEntry } from "../src/revocation/history.ts";
import { readSegment } from "./reader.ts";
import { seal, withArguments } from "./seal.ts";
import { decode } from "./unpack.ts";

const FOLDER = new URL("../../../tests/vectors/", import.meta.url);

// biome-ignore lint/suspicious/noExplicitAny: the members of a vector are described in tests/vectors/README.md
export type Vector = any;

export function vectorsOf(family: string): [name: string, vector: Vector][] {
  const folder = new URL(`${family}/`, FOLDER);
  const names = fs.readdirSync(folder).filter((name) => name.endsWith(".json")).sort();
  return names.map((name) => [name, JSON.parse(fs.readFileSync(new URL(name, folder), "utf8"))]);
}

/** Returns what is in a segment. */
export function journal(vector: Vector): unknown {
  const read = readSegment(Buffer.concat([Buffer.from(vector.file, "hex"), Buffer.alloc(vector.zeros)]));
  return { ...read, records: read.records.map(([sequence, payload]) => [sequence, payload?.toString("hex") ?? null]) };
}

/** Returns both parts of a record. */
export function record(vector: Vector): unknown {
  const given = Buffer.from(vector.journal, "hex");
  const payload = "args" in vector ? withArguments(given, vector.args) : given;
  const { kept, body } = seal(payload, vector.verifier, vector.boot, vector.sequence);
  return { kept: kept.toString("hex"), body: body.toString("hex") };
}

/** Returns the decision whose record in a journal this is; undefined for one that this verifier never makes. */
export function decisionOf(payload: Buffer): Decision | undefined {
  const [version, kept, erasable, [call, rest]] = decode(payload) as Vector;
  const [at, code, tool, argsDigest, incarnation, applied, ageMs, rules, ends, counted, gap, signed, watched, effect, credential, marks, box] = call;
  const [salt, details, peer, requestId, traceparent, peers, args, group, externalId = null] = rest;
  if (version === 2 || watched || ends !== 0 || args !== null || credential || marks || box || (group ?? null) !== null) return undefined;
  return {
    at, code, tool, argsDigest, incarnation, applied, ageMs, salt, peer, requestId, traceparent, externalId,
    facts: { kept, erasable },
    failures: rules.map(([place, rule]: Vector, at: number) => ({ place, rule, expected: details[at][0], came: details[at][1] })),
    counts: counted.map(([code, times]: Vector, at: number) => ({ code, times, peer: peers[at] })),
    gap: gap && { why: gap[0], first: gap[1], last: gap[2], times: gap[3], since: gap[4], until: gap[5] },
    signed: signed && { said: signed[0], plain: signed[1], signature: signed[2] },
    effect: effect && { result: effect[0], of: effect[1], status: effect[2], size: effect[3], digest: effect[4], took: effect[5] },
  };
}

/** Returns what comes of each step of a script. */
export function follow(vector: Vector): unknown {
  let [boot, wall] = [0, 0];
  const view = new Following({ boot: () => boot, wall: () => wall });
  const steps = vector.script.map((step: Vector) => {
    [boot, wall] = [step.boot, step.wall];
    try {
      return DO[step.do as keyof typeof DO](view, step, boot);
    } catch (error) {
      if (!(error instanceof FeedError)) throw error;
      view.begin(); // the connection is dropped, and another one opened
      return "dropped";
    }
  });
  return { steps };
}

const DO = {
  connect: (view: Following, step: Vector): null => {
    view.several = step.several ?? false;
    view.begin();
    return null;
  },
  close: (view: Following): null => {
    view.close();
    return null;
  },
  probe: (view: Following): unknown => {
    const place = view.ask();
    if (place === null) throw new Error("no probe is due");
    return [place.incarnation, place.seq, place.chain];
  },
  answer: (view: Following, { answer }: Vector): string => {
    view.takeAnswer(answerOf(answer), {
      kills: new Map(Object.entries(answer.kills ?? {})), freezes: new Map(Object.entries(answer.freezes ?? {})),
    });
    return "taken";
  },
  push: (view: Following, { entry }: Vector): string => {
    view.takePush(entryOf(entry));
    return "taken";
  },
  check: (view: Following, { token }: Vector, boot: number): string => {
    const after = token.fresh === null ? undefined : boot - token.fresh;
    return view.check(token.incarnation, token.born, token.targets, after) ?? "ok";
  },
};

export function entryOf([incarnation, seq, op, target]: Vector): EpochEntry {
  return { incarnation, seq, op, target };
}

export function answerOf(made: Vector): StoreAnswer {
  const { incarnation, seq, at, status, chain, entries, askers = 1, age_ns = 0 } = made;
  const times = { leaseMs: made.lease_ms, keepMs: made.keep_ms, ageMs: age_ns / 1e6 };
  return { incarnation, seq, at, status, chain, askers, entries: entries.map(entryOf), ...times };
}
