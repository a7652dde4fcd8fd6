// SPDX-License-Identifier: Apache-2.0
// The verifier of a service: one decision a call.  SPEC 11.

import { AuditError, type Code, type Failure, Refusal, refuse, SettingsError } from "../errors.ts";
import {
  AWAITED, type Decision as DecisionRecord, digestOf, formOf, newSalt, type SignedCall,
} from "../journal/record.ts";
import type { Journal } from "../journal/writer.ts";
import { LIMITS } from "../limits.ts";
import { isToolPattern, matchesTool } from "../names.ts";
import type { AccessRequest } from "../request.ts";
import type { EpochTable } from "../revocation/epoch.ts";
import { sha256 } from "../token/chain.ts";
import type { KeyRing } from "../token/keyring.ts";
import { CallEffect } from "./effect.ts";
import { type Decision, Grant } from "./grant.ts";
import { type Asked, couldAllow, type Judge, judge, judgeCircumstances, judgeTime } from "./judge.ts";
import type { Nonces, Spent } from "./nonces.ts";
import { prove, type Proven } from "./prove.ts";
import type { ServiceLimits } from "./serviceLimits.ts";

/** Where decisions are recorded before they are answered. */
export type Recorder = Pick<Journal, "append" | "boot" | "close" | "count" | "settle" | "waits">;

export interface VerifierOptions {
  readonly audience: string;
  readonly keys: KeyRing;
  readonly epochs: EpochTable & { catchUp?(sentAfter: number, born: number, timeoutMs: number): Promise<boolean> };
  readonly recorder: Recorder;
  readonly nonces: Nonces;
  readonly limits?: readonly ServiceLimits[];
  /** Tools, or patterns of them, whose effects are recorded too: what their answers show (SPEC 12.8). */
  readonly effects?: readonly string[];
  readonly clock?: () => number;
}

const WAITS: ReadonlyMap<Code, number> = new Map([["behind", 50], ["syncing", 500], ["stale", 50]]);

export class Verifier {
  readonly audience: string;
  readonly realm: string;
  readonly clock: () => number;
  readonly #judge: Judge;
  readonly #epochs: VerifierOptions["epochs"];
  readonly #recorder: Recorder;
  readonly #nonces: Nonces;
  readonly #effects: readonly string[];

  constructor(options: VerifierOptions) {
    this.audience = options.audience;
    this.realm = options.keys.realm;
    this.clock = options.clock ?? Date.now;
    this.#judge = { audience: options.audience, keys: options.keys, limits: options.limits ?? [] };
    this.#epochs = options.epochs;
    this.#recorder = options.recorder;
    this.#nonces = options.nonces;
    this.#effects = [...(options.effects ?? [])];
    const isList = typeof options.effects !== "string" && this.#effects.every(isToolPattern);
    if (!isList) throw new SettingsError("`effects` is a list of tools, `prefix.*` or `*`");
  }

  /** Decide a call; it waits for a view that is behind, for a shared store, and for a record that has to be on disk. */
  async authorize(credential: string | undefined, request: AccessRequest): Promise<Decision> {
    const arrived = this.#epochs.bootMs();
    const proven = this.#prove(credential, request.peer);
    if ("allowed" in proven) return proven;
    if (this.#epochs.catchUp !== undefined) await this.#catchUp(proven, request, arrived);
    const asked = { ...request, at: this.clock(), form: formOf(request.args) };
    const decision = await this.#decide(proven, asked, arrived);
    if (!decision.allowed) return decision;
    try {
      if (this.#recorder.waits) await this.#recorder.settle(Number(decision.id.split("-").at(-1)));
    } catch (error) {
      if (!(error instanceof AuditError)) throw error;
      return refused("audit_unavailable");
    }
    const code = decision.grant?.recheck(); // step 8, as the last act: a record may have waited for its disk
    if (code === undefined) return decision;
    decision.grant?.outcome?.settle("failed"); // it does not run
    return this.#record(proven, asked, new Refusal(code));
  }

  /** Refuse what calls no tool, such as a request for a list, or return which tools its token could allow. */
  async screen(
    credential: string, request: AccessRequest,
  ): Promise<{ code: Code } | { could(tool: string): boolean; grant: Grant }> {
    const arrived = this.#epochs.bootMs();
    const proven = this.#prove(credential, request.peer);
    if ("allowed" in proven) return { code: proven.code as Code };
    if (this.#epochs.catchUp !== undefined) await this.#catchUp(proven, request, arrived);
    const asked = { ...request, at: this.clock(), form: formOf(request.args) };
    try {
      judgeCircumstances(this.#judge, proven, asked, this.#epochs.timesMs(asked.at));
      this.#checkEpoch(proven, arrived);
      await this.#spend(callOf(proven), asked.at);
    } catch (error) {
      if (error instanceof Refusal) return { code: this.#record(proven, asked, error).code as Code };
      throw error;
    }
    const could = (tool: string): boolean => {
      return couldAllow(proven, tool) && this.#judge.limits.every((limits) => limits.couldAllow(tool));
    };
    return { could, grant: new Grant(proven, request.tool, request.args, "", this.#epochs, this.clock) };
  }

  /** Return the refusal of a token that no key of this verifier made; undefined for any other, which is no decision. */
  refuseStranger(credential: string | undefined, peer: string | undefined): Decision | undefined {
    const proven = this.#prove(credential, peer);
    return "allowed" in proven ? proven : undefined;
  }

  /** Count a refusal of a request that has no proven token. */
  refuseUnproven(code: Code, peer: string | null | undefined): Decision {
    this.#recorder.count(code, peer ?? null);
    return refused(code);
  }

  async close(): Promise<void> {
    this.#nonces.close?.();
    await this.#recorder.close();
  }

  #prove(credential: string | undefined, peer: string | null | undefined): Proven | Decision {
    try {
      if (credential === undefined) refuse("missing_token");
      return prove(credential, this.audience, this.#judge.keys);
    } catch (error) {
      if (error instanceof Refusal) return this.refuseUnproven(error.code, peer);
      throw error;
    }
  }

  /** Step 6: what is used once. */
  async #spend(uses: Iterable<Use>, now: number): Promise<void> {
    for (const use of uses) {
      const answer = this.#nonces.spend(use.key, use.until, now);
      const spent = typeof answer === "string" ? answer : await answer;
      requireNew(use, spent, this.#nonces.notBefore()); // asked last: the store may have changed it
    }
  }

  async #decide(proven: Proven, request: Asked, arrived: number): Promise<Decision> {
    try {
      judge(this.#judge, proven, request, this.#epochs.timesMs(request.at));
      this.#checkEpoch(proven, arrived);
      if (proven.restrictions.spends.length > 0) refuse("budget_unsupported", proven.restrictions.spends[0], "spend");
      const uses = proven.restrictions.onces.length > 0 ? usesOf(proven, request.at) : callOf(proven);
      await this.#spend(uses, request.at);
      this.#checkEpoch(proven, arrived); // a kill may have come meanwhile
      judgeTime(proven, this.#epochs.timesMs(this.clock()));
    } catch (error) {
      if (error instanceof Refusal) return this.#record(proven, request, error);
      throw error;
    }
    return this.#record(proven, request, undefined);
  }

  /** Step 5: the kill epoch. */
  #checkEpoch(proven: Proven, arrived: number): void {
    const ended = this.#endOf(proven, arrived);
    if (ended !== null) refuse(ended);
  }

  #endOf({ identifier, targets, restrictions }: Proven, arrived: number): ReturnType<EpochTable["check"]> {
    return this.#epochs.check(...identifier.born, targets, sentAfter(restrictions, arrived));
  }

  async #catchUp(proven: Proven, request: AccessRequest, arrived: number): Promise<void> {
    const { identifier, restrictions } = proven;
    if (restrictions.refusal !== undefined) return;
    const refused = this.#endOf(proven, arrived);
    const wait = refused === null ? undefined : WAITS.get(refused);
    if (wait === undefined || request.at >= restrictions.exp.at) return;
    await this.#epochs.catchUp?.(sentAfter(restrictions, arrived), identifier.born[1], wait);
  }

  /** Step 7: the record. */
  #record(proven: Proven, request: Asked, refusal: Refusal | undefined): Decision {
    const [salt, failures] = [newSalt(), refusal?.failures ?? []];
    const awaits = refusal === undefined && this.#effects.some((pattern) => matchesTool(pattern, request.tool));
    const record: DecisionRecord = {
      code: refusal?.code ?? "ok", at: request.at, facts: proven.facts, tool: request.tool, salt,
      argsDigest: digestOf(salt, request.form), ...this.#epochs.view(), failures: failures.slice(0, 1),
      peer: request.peer ?? null, requestId: request.requestId ?? null, traceparent: request.traceparent ?? null,
      signed: refusal === undefined ? signedBy(proven) : null, effect: awaits ? AWAITED : null,
    };
    let sequence: number;
    try {
      sequence = this.#recorder.append(record);
    } catch (error) {
      if (!(error instanceof AuditError)) throw error;
      return refused("audit_unavailable");
    }
    const id = sequence > 0 ? `${this.#recorder.boot}-${sequence}` : "";
    if (refusal !== undefined) return refused(refusal.code, failures.slice(0, LIMITS.failures), id);
    const outcome = awaits && id !== "" ? this.#effectOf(id, record) : undefined;
    const grant = new Grant(proven, request.tool, request.args, id, this.#epochs, this.clock, outcome);
    return { allowed: true, code: "ok", failures: [], id, grant };
  }

  #effectOf(id: string, allowed: DecisionRecord): CallEffect {
    const { facts, tool = "", peer = null, requestId = null, traceparent = null } = allowed;
    return new CallEffect(id, (effect, salt, externalId) => {
      const call = { code: "effect", at: this.clock(), facts, tool, salt, peer, requestId, traceparent };
      const sequence = this.#recorder.append({ ...call, ...this.#epochs.view(), effect, externalId });
      return this.#recorder.waits ? this.#recorder.settle(sequence) : undefined;
    });
  }
}

const refused = (code: Code, failures: readonly Failure[] = [], id = ""): Decision => {
  return { allowed: false, code, failures, id, grant: undefined };
};

/** What step 6 spends: a call, or the name of a `once`. */
interface Use {
  readonly key: string;
  readonly until: number;
  readonly issuedAt: number;
  /** The place of a `once`. */
  readonly place?: string;
}

/** Return the call, then each `once`; throw for one that is too old or too young. */
function* usesOf(proven: Proven, now: number): Generator<Use, void> {
  yield* callOf(proven);
  const { identifier, restrictions } = proven;
  for (const { place, issuedAt } of restrictions.onces) {
    if (issuedAt <= now - LIMITS.once_age || issuedAt > now + LIMITS.once_ahead) usedUp(place);
    if (issuedAt > now) refuse("store_unavailable", place, "once", "in the past", `in ${issuedAt - now} ms`);
  }
  const owner = identifier.task ?? identifier.session;
  for (const { place, name, issuedAt } of restrictions.onces) {
    yield { key: `once:${owner}:${name}`, until: issuedAt + LIMITS.once_kept, issuedAt, place };
  }
}

function callOf({ call, signature }: Proven): Use[] {
  if (call === undefined) return [];
  return [{ key: signature.toString("latin1"), until: call.issuedAt + LIMITS.call_kept, issuedAt: call.issuedAt }];
}

function requireNew({ issuedAt, place }: Use, spent: Spent, notBefore: number): void {
  if (spent === "full") refuse("store_unavailable");
  if (place !== undefined && (spent === "used" || issuedAt < notBefore)) usedUp(place);
  if (issuedAt < notBefore) refuse("proof_invalid", "call", "start", "after this verifier started", "before");
  if (spent === "used") refuse("replayed", "call", "nonce", "a nonce that was not used", "one that was");
}

function sentAfter({ fresh }: Proven["restrictions"], arrived: number): number {
  return fresh === undefined ? Number.NEGATIVE_INFINITY : arrived - fresh;
}

function usedUp(place: string): never {
  return refuse("already_used", place, "once", "an approval that was not used", "one that was, or is too old");
}

/** The evidence of a call that its holder signed for others (SPEC 16.3). */
function signedBy({ call, parent }: Proven): SignedCall | null {
  if (call?.proof?.length !== 64) return null;
  return { said: sha256(parent), plain: Buffer.from(call.plain), signature: call.proof };
}
