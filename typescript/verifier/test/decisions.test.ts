// SPDX-License-Identifier: Apache-2.0
// Decisions at the edges of their checks: grants, used calls, failures, and the settings of a verifier.

import assert from "node:assert/strict";
import { test } from "node:test";
import { LIMITS } from "../src/limits.ts";
import { EpochTable } from "../src/revocation/epoch.ts";
import { AuditError, SettingsError } from "../src/errors.ts";
import { KeyRing } from "../src/token/keyring.ts";
import type { Grant } from "../src/verification/grant.ts";
import { MemoryNonces } from "../src/verification/nonces.ts";
import { ServiceLimits } from "../src/verification/serviceLimits.ts";
import { Verifier, type VerifierOptions } from "../src/verification/verifier.ts";
import { MemoryRecorder } from "./doubles.ts";
import { KEY, mint, serviceOf } from "./mint.ts";

const HISTORY = "aW5jYXJuYXRpb24tMDAwMQ";
const HOP = Buffer.alloc(9, 1).toString("base64url");
const LEASE_MS = 1000;

/** A view whose clocks a test sets, with a lease from their beginning. */
class TimedView extends EpochTable {
  boot: number;

  constructor(boot: number) {
    super({ boot: () => this.boot, wall: () => this.boot });
    this.boot = boot;
    this.adopt(7);
  }

  adopt(applied: number): void {
    const { boot } = this;
    this.change({ do: "adopt", state: { incarnation: HISTORY, applied, refuses: "syncing", kills: new Map(), freezes: new Map() } });
    const lease = { boot: boot + LEASE_MS, wall: boot + LEASE_MS, sent: boot };
    this.change({ do: "renew", lease, clock: { at: Number.NaN, sent: boot } });
  }

  override timesMs(at: number): readonly [number, number] {
    return [at, at];
  }
}

function options(more: object = {}): VerifierOptions {
  return {
    audience: "orders", keys: new KeyRing({ "k1.0": KEY }, "acme", 86_400_000), epochs: new TimedView(0),
    recorder: new MemoryRecorder(), nonces: new MemoryNonces(), ...more,
  };
}

async function granted(end: number): Promise<{ grant: Grant | undefined; view: TimedView; at: (time: number) => void }> {
  const view = new TimedView(0);
  let now = Date.now();
  const verifier = new Verifier(options({ epochs: view, clock: () => now }));
  const { grant } = await verifier.authorize(mint([{ tool: "*" }], undefined, { exp: end }), { tool: "orders.get", args: {}, at: now });
  return { grant, view, at: (time) => (now = time) };
}

test("a grant ends with its token, and that end is final", async () => {
  const end = Date.now() + 50_000;
  const { grant, at } = await granted(end);
  at(end - 1);
  assert.equal(grant?.recheck(), undefined);
  at(end);
  assert.equal(grant?.recheck(), "expired");
  at(end - 1);
  assert.equal(grant?.recheck(), "expired");
});

test("a grant is stale before the end of a lease, and that end is not final", async () => {
  const { grant, view } = await granted(Date.now() + 50_000);
  for (const [left, code] of [[LIMITS.recheck_early, undefined], [LIMITS.recheck_early - 1, "stale"], [LEASE_MS, undefined]] as const) {
    view.boot = LEASE_MS - left;
    assert.equal(grant?.recheck(), code, String(left));
  }
});

test("used calls have a room, of which names that last have half", () => {
  const brief = new MemoryNonces(0, 2);
  assert.deepEqual(["a", "b", "c"].map((key) => brief.spend(key, 60_000, 0)), ["new", "new", "full"]);
  const lasting = new MemoryNonces(0, 4);
  assert.deepEqual(["a", "b", "c"].map((key) => lasting.spend(key, 60_001, 0)), ["new", "new", "full"]);
  assert.equal(lasting.spend("d", 60_000, 0), "new");
  assert.equal(lasting.spend("e", 130_000, 60_002), "new"); // the others are forgotten by now
  assert.equal(lasting.spend("f", 130_000, 60_002), "new");
});

test("a used call is known up to its end, and forgotten each second", () => {
  const nonces = new MemoryNonces(0, 1);
  assert.equal(nonces.spend("a", 1000, 0), "new");
  assert.equal(nonces.spend("a", 1000, 1000), "used");
  assert.equal(nonces.spend("b", 3000, 1999), "full");
  assert.equal(nonces.spend("b", 2000, 2000), "new");
  assert.equal(nonces.spend("c", 1999, 2000), "used"); // it would have been forgotten
});

test("failures of several rules are each named, those of one argument once", async () => {
  const { verifier } = serviceOf();
  const failures = async (...allows: object[][]) => {
    const [first, ...more] = allows;
    const token = mint(first as never, undefined, ...more.map((allow) => ({ allow })) as never[]);
    const decision = await verifier.authorize(token, { tool: "orders.get", args: { amount: 100 }, at: Date.now() });
    return decision.failures.map(({ place, expected }) => `${place} ${expected}`);
  };
  const most = (max: number): object => ({ tool: "*", args: { amount: { max } } });
  assert.deepEqual(await failures([most(20)], [most(50)]), ["caveat 2 50"]);
  assert.deepEqual(await failures([most(20), most(50)]), ["caveat 1 20", "caveat 1 50"]);
});

test("of two equal ends the first one is named", async () => {
  const place = async (member: string, time: number, at: number): Promise<string | undefined> => {
    const verifier = new Verifier(options({ epochs: serviceOf().view, clock: () => at }));
    const token = mint([{ tool: "*" }], undefined, { [member]: time }, { [member]: time });
    return (await verifier.authorize(token, { tool: "orders.get", args: {}, at })).failures[0]?.place;
  };
  const now = Date.now();
  assert.equal(await place("exp", now + 9000, now + 9000), "caveat 2");
  assert.equal(await place("nbf", now + 9000, now), "caveat 2");
});

test("a record has the caveats of each delegation, up to 2,048 characters", async () => {
  const steps = async (size: number): Promise<readonly (readonly string[])[] | undefined> => {
    const { verifier, recorder } = serviceOf();
    const delegation = { hop: HOP, to: "acme/worker" };
    const rule = (a: string): object => ({ allow: [{ args: { a }, tool: "*" }] });
    const filled = size - JSON.stringify(rule("")).length - JSON.stringify({ to: "acme/worker" }).length;
    const token = mint([{ tool: "*" }], undefined, rule("x".repeat(filled)) as never, delegation);
    await verifier.authorize(token, { tool: "orders.get", args: {}, at: Date.now() });
    return recorder.decisions[0]?.facts.erasable[2] as readonly (readonly string[])[] | undefined;
  };
  assert.deepEqual((await steps(2048))?.map((step) => step.map((text) => text.length)), [[2048 - 20, 20]]);
  assert.deepEqual(await steps(2049), []);
});

test("an allowed call waits for its record, and is judged again behind it", async () => {
  const asked = { tool: "orders.get", args: {}, at: Date.now() };
  const outcome = async (settle: (service: ReturnType<typeof serviceOf>) => void): Promise<string> => {
    const recorder = Object.assign(new MemoryRecorder(), { waits: true, settle: async () => settle(service) });
    const service = serviceOf(undefined, [], recorder);
    return (await service.verifier.authorize(mint([{ tool: "*" }]), asked)).code;
  };
  assert.equal(await outcome(() => undefined), "ok");
  assert.equal(await outcome(({ view }) => view.kill("session:s-1")), "revoked");
  assert.equal(await outcome(() => { throw new AuditError("no disk"); }), "audit_unavailable");
  await assert.rejects(outcome(() => { throw new TypeError("a fault"); }), TypeError);
});

test("a refusal does not wait for its record, and a decision without one has no name", async () => {
  const asked = { tool: "orders.get", args: {}, at: Date.now() };
  const fails = async (): Promise<void> => Promise.reject(new AuditError("no disk"));
  const slow = serviceOf(undefined, [], Object.assign(new MemoryRecorder(), { waits: true, settle: fails }));
  assert.equal((await slow.verifier.authorize(mint([{ tool: "orders.put" }]), asked)).code, "tool_not_allowed");
  const none = serviceOf(undefined, ["*"], Object.assign(new MemoryRecorder(), { append: () => 0 }));
  const { id, grant } = await none.verifier.authorize(mint([{ tool: "*" }]), asked);
  assert.deepEqual([id, grant?.outcome], ["", undefined]);
});

test("a bearer chain has no proofs of holders in its record", async () => {
  const { verifier, recorder } = serviceOf();
  await verifier.authorize(mint([{ tool: "*" }]), { tool: "orders.get", args: {}, at: Date.now() });
  assert.deepEqual(recorder.decisions[0]?.facts.kept.slice(10), ["bearer", null]);
});

test("a call waits for its view if that may change its end, and until its token has expired", async () => {
  const now = Date.now();
  const waits = async (token: string, applied: number, at = now): Promise<number[]> => {
    const asked: number[] = [];
    const view = Object.assign(new TimedView(0), { catchUp: async (_sent: number, _born: number, ms: number) => asked.push(ms) > 0 });
    view.adopt(applied);
    await new Verifier(options({ epochs: view, clock: () => at })).authorize(token, { tool: "orders.get", args: {}, at });
    return asked;
  };
  const token = mint([{ tool: "*" }], undefined, { exp: now + 1000 });
  assert.deepEqual(await waits(token, 6), [50]); // the view is behind
  assert.deepEqual(await waits(token, 7), []);
  assert.deepEqual(await waits(token, 6, now + 999), [50]);
  assert.deepEqual(await waits(token, 6, now + 1000), []);
  assert.deepEqual(await waits(mint([{ tool: "*" }], undefined, { exp: "never" }), 6), []); // malformed in any view
});

test("what may be used already is refused", async () => {
  const now = Date.now();
  const ask = async (token: string, nonces: MemoryNonces): Promise<string> => {
    const verifier = new Verifier(options({ epochs: serviceOf().view, nonces, clock: () => now }));
    return (await verifier.authorize(token, { tool: "orders.get", args: {}, at: now })).code;
  };
  const call = mint([{ tool: "*" }], { tool: "orders.get", args: {}, at: now });
  assert.equal(await ask(call, new MemoryNonces(now)), "ok");
  assert.equal(await ask(call, new MemoryNonces(now, 0)), "store_unavailable"); // no room
  assert.equal(await ask(call, new MemoryNonces(now + 1)), "proof_invalid"); // of before the start
  for (const [age, code] of [[LIMITS.once_age - 1, "ok"], [LIMITS.once_age, "already_used"]] as const) {
    assert.equal(await ask(mint([{ tool: "*" }], undefined, { once: ["pay", now - age] }), new MemoryNonces(0)), code, String(age));
  }
});

test("a list waits for its view as a call does", async () => {
  const view = Object.assign(new TimedView(0), { catchUp: async () => (view.adopt(7), true) });
  view.adopt(6);
  const screened = await new Verifier(options({ epochs: view })).screen(mint([{ tool: "*" }]), { tool: "", args: {}, at: Date.now() });
  assert.ok("could" in screened); // the first question to a server that has just started
});

test("a list is refused as a call is", async () => {
  const { verifier, view } = serviceOf();
  const screened = () => verifier.screen(mint([{ tool: "*" }]), { tool: "", args: { method: "tools/list" }, at: Date.now() });
  assert.ok("could" in (await screened()));
  view.kill("session:s-1");
  assert.deepEqual(await screened(), { code: "revoked" });
});

test("a budget in another form is malformed", async () => {
  const asked = { tool: "orders.get", args: {}, at: Date.now() };
  for (const spend of [5, "x", ["p", "calls", "1", "task"], ["p", "calls", "1", "task", 1, 1]]) {
    assert.equal((await serviceOf().verifier.authorize(mint([{ tool: "*" }], undefined, { spend }), asked)).code, "malformed");
  }
});

test("settings of another form are errors at start", () => {
  for (const odd of [null, [], {}, { hours: ["always"] }, { hours: ["10:00-10:00"] }, { hours: ["10:60-11:00"] }, { hours: ["10:00-11:60"] }]) {
    assert.throws(() => new ServiceLimits(odd as never), SettingsError, JSON.stringify(odd));
  }
  for (const hours of ["00:59-01:00", "00:00-01:59", "23:59-24:00"]) new ServiceLimits({ hours: [hours] });
});

test("arguments that are too much work for a service's limits are refused", async () => {
  const heavy = { any_of: Array.from({ length: 1900 }, (_, at) => at), optional: true };
  const { verifier } = serviceOf({ rules: [{ tool: "*", open: true, args: { z: heavy } }] });
  const ask = async (size: number): Promise<string> => {
    return (await verifier.authorize(mint([{ tool: "*" }]), { tool: "orders.get", args: { a: "x".repeat(size) }, at: Date.now() })).code;
  };
  assert.deepEqual([await ask(5_000), await ask(10_000)], ["ok", "over_service_limit"]);
});
