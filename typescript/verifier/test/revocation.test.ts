// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { once } from "node:events";
import { MessageChannel } from "node:worker_threads";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { SettingsError } from "../src/errors.ts";
import { EpochTable, type StateCopy, type ViewChange } from "../src/revocation/epoch.ts";
import { Following, type StoreAnswer } from "../src/revocation/follower_core.ts";
import { after } from "../src/revocation/history.ts";
import { FollowedView, Follower } from "../src/revocation/follower.ts";
import { findPassword, readPassword } from "../src/revocation/password.ts";
import type { Password } from "../src/revocation/password.ts";
import { parseStoreUrl } from "../src/revocation/store_url.ts";

const STATE: StateCopy = { incarnation: "i", applied: 7, kills: new Map(), freezes: new Map(), refuses: "syncing" };

function leased(wall: { now: number; boot: number }): { view: FollowedView; send: (change: ViewChange) => void } {
  const { port1, port2 } = new MessageChannel();
  const view = new FollowedView(port2, { boot: () => wall.boot, wall: () => wall.now });
  port1.unref();
  const send = (change: ViewChange): void => port1.postMessage(change);
  send({ do: "adopt", state: STATE });
  send({ do: "renew", lease: { boot: 2_000, wall: 11_000, sent: 1_000 }, clock: { at: 10_000, sent: 1_000 } });
  return { view, send };
}

test("either clock ends a lease, also when the other one was set back", () => {
  const clock = { boot: 1_999, now: 10_999 };
  const { view } = leased(clock);
  assert.equal(view.check("i", 7, ["realm"]), null);
  clock.now = 5; // set back: the monotonic clock ends it
  assert.equal(view.check("i", 7, ["realm"]), null);
  clock.boot = 2_000;
  assert.equal(view.check("i", 7, ["realm"]), "stale");
  clock.boot = 1_500; // suspended, where the monotonic clock does not count: the wall clock ends it
  clock.now = 11_000;
  assert.equal(view.check("i", 7, ["realm"]), "stale");
  clock.now = Number.NaN;
  assert.equal(view.check("i", 7, ["realm"]), "stale");
});

test("a check takes what has come before it decides, without a turn of the event loop", () => {
  const { view, send } = leased({ boot: 1_500, now: 10_500 });
  assert.equal(view.check("i", 7, ["session:a"]), null);
  send({ do: "apply", seq: 8, op: "kill", target: "session:a" });
  assert.equal(view.check("i", 7, ["session:a"]), "revoked");
  assert.equal(view.check("i", 7, ["session:b"]), null);
  send({ do: "apply", seq: 9, op: "freeze", target: "session:b" });
  assert.equal(view.check("i", 7, ["session:b"]), "frozen");
  send({ do: "close" });
  assert.equal(view.check("i", 7, ["session:c"]), "closed");
});

test("a view whose follower has ended refuses", async () => {
  const { port1, port2 } = new MessageChannel();
  const view = new FollowedView(port2);
  const alive = setInterval(() => undefined, 1_000); // a view alone does not hold the process
  const ended = once(port2, "close");
  port1.close();
  await ended;
  clearInterval(alive);
  assert.equal(view.check("i", 0, []), "closed");
  assert.equal(await view.catchUp(0, 0, 10_000), false);
});

test("URLs of stores", () => {
  const parsed = (url: string, password?: Password): unknown => JSON.parse(JSON.stringify(parseStoreUrl(url, password)));
  const plain = { tls: false, db: 0, login: {}, sentinelLogin: {} };
  assert.deepEqual(parsed("redis://db"), { ...plain, places: [{ host: "db", port: 6379 }] });
  assert.deepEqual(parsed("rediss://u:p%40@[::1]:7000/3"), {
    ...plain, tls: true, db: 3, places: [{ host: "::1", port: 7000 }], login: { username: "u", password: { text: "p@" } },
  });
  assert.deepEqual(parsed("unix://u@/run/x%20y?db=2", { text: "s" }), {
    ...plain, places: [{ path: "/run/x y" }], db: 2, login: { username: "u", password: { text: "s" } },
  });
  assert.deepEqual(parsed("redis+sentinel://a,b:5/acme/1?sentinel_username=s&sentinel_password=q"), {
    ...plain, db: 1, service: "acme", places: [{ host: "a", port: 26379 }, { host: "b", port: 5 }],
    sentinelLogin: { username: "s", password: { text: "q" } },
  });
});

test("URLs that are refused, each by what is wrong, and without a login", () => {
  const cases: [string, RegExp][] = [
    ["relay://u:secret@h:1", /relay:\/\/ is a relay/],
    ["relays://:secret@h:1,g:2", /relays:\/\/ is a relay/],
    ["relay+unix:///run/x", /is a relay/],
    ["redis+cluster://u:secret@h", /is a cluster/],
    ["http://u:secret@h", /expected the form/],
    ["redis://u:secret@h:0", /expected the form/],
    ["redis://u:secret@h:99999", /expected the form/],
    ["redis://u:secret@h:65536", /expected the form/],
    ["unix:///", /expected the form/],
    ["redis://u:secret@h/x", /expected the form/],
    ["redis://u:%zz@h", /expected the form/],
    ["redis+sentinel://u:secret@h", /expected the form/],
    ["redis://u:secret@h,g", /expected the form/],
    ["rediss://u:secret@h?ssl_cert_reqs=none", /must not disable TLS/],
    ["redis://u:secret@h?socket_timeout=9", /unknown setting: expected db/],
    ["redis://u:a?secret@h", /unknown setting: expected db/],
    ["redis://u:secret@h?__proto__=9", /unknown setting/],
    ["redis://u:secret@h?db=1&db=2", /db is there twice/],
    ["rediss://u:secret@h?ssl_ca_certs=/none", /cannot be read/],
  ];
  for (const [url, why] of cases) {
    assert.throws(() => parseStoreUrl(url), (error: Error) => {
      assert.ok(error instanceof SettingsError, url);
      assert.match(error.message, why);
      assert.doesNotMatch(error.message, /secret/);
      return true;
    });
  }
  assert.deepEqual(parseStoreUrl("redis://h:65535").places, [{ host: "h", port: 65535 }]);
  assert.throws(() => new Follower("redis://h", "Acme", "v"), SettingsError);
  assert.throws(() => new Follower("redis://h", "acme", "!v"), SettingsError);
});

test("passwords in variables and files", () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "arx-"));
  const file = path.join(folder, "p");
  fs.writeFileSync(file, "one\n", { mode: 0o600 });
  const found = findPassword("P", { P_FILE: file });
  assert.ok(found);
  assert.equal(readPassword(found), "one");
  fs.writeFileSync(file, "two");
  assert.equal(readPassword(found), "two");
  assert.equal(findPassword("P", {}), undefined);
  assert.throws(() => findPassword("P", { P: "x", P_FILE: file }), /got both/);
  assert.throws(() => findPassword("P", { P_FILE: "command:x" }), /expected a file/);
  for (const [bad, why] of [["", /empty/], ["a\nb", /one line/], ["x".repeat(4097), /one line/]] as const) {
    fs.writeFileSync(file, bad);
    assert.throws(() => findPassword("P", { P_FILE: file }), why);
  }
  fs.writeFileSync(file, "x".repeat(4096));
  assert.equal(readPassword(found).length, 4096);
  assert.equal(readPassword({ text: "in the URL" }), "in the URL");
  fs.writeFileSync(file, "x");
  fs.chmodSync(folder, 0o755);
  const isRoot = process.geteuid?.() === 0;
  if (isRoot) {
    fs.chmodSync(file, 0o640);
    assert.equal(readPassword(found), "x"); // as Kubernetes mounts it
    fs.chmodSync(file, 0o600);
    fs.chownSync(file, 1000, 1000);
  }
  assert.equal(readPassword(found), "x"); // no other user can read it
  fs.chmodSync(file, 0o644);
  assert.throws(() => findPassword("P", { P_FILE: file }), /chmod 600/);
  assert.throws(() => findPassword("P", { P_FILE: folder }), /expected a regular file/);
  fs.rmSync(folder, { recursive: true });
});

const ANSWER: StoreAnswer = {
  incarnation: "i", seq: 7, at: 0, leaseMs: 1_000, status: "OK", keepMs: 3_600_000, chain: "c", entries: [], askers: 1,
  ageMs: 0,
};

function following(askers: number): { view: Following; clock: { now: number }; wait: () => number } {
  const clock = { now: 10_000 };
  const view = new Following({ boot: () => clock.now, wall: () => clock.now });
  view.begin();
  for (const status of ["RESYNC", "OK"] as const) {
    assert.ok(view.ask());
    const copy = { kills: new Map(), freezes: new Map() };
    view.takeAnswer({ ...ANSWER, at: clock.now, status, askers }, status === "OK" ? null : copy);
  }
  return { view, clock, wait: () => Math.max(0, view.nextAt() - clock.now) };
}

test("a push is confirmed once the other followers have it", () => {
  for (const [askers, ms] of [[1, 0], [10, 0], [50, 2], [1_000, 40], [10_000, 50]] as const) {
    const { view, clock, wait } = following(askers);
    assert.equal(wait(), 250);
    view.takePush({ incarnation: "i", seq: 8, op: "kill", target: "realm" });
    assert.equal(view.check("i", 7, ["realm"]), "revoked");
    assert.equal(wait(), ms);
    clock.now += 20;
    view.takePush({ incarnation: "i", seq: 9, op: "kill", target: "realm" });
    assert.equal(wait(), Math.max(0, ms - 20)); // a second one does not put it off
  }
});

test("what may be missing is asked for at once", () => {
  for (const [incarnation, seq] of [["i", 9], ["j", 8]] as const) {
    const { view, wait } = following(1_000);
    view.takePush({ incarnation, seq, op: "kill", target: "realm" });
    assert.equal(wait(), 0);
  }
});

test("a probe leaves when it is due, one at a time, and its answer has a time", () => {
  const { view, clock } = following(1);
  const begun = clock.now;
  assert.equal(view.nextAt(), begun + 250);
  assert.equal(view.nextAt(true), begun + 5); // requests wait for it
  clock.now = begun + 249;
  assert.equal(view.ask(), null);
  clock.now = begun + 250;
  assert.deepEqual(view.ask(), { incarnation: "i", seq: 7, chain: "c" });
  assert.equal(view.nextAt(true), begun + 1_250);
  clock.now = begun + 1_249;
  assert.equal(view.ask(true), null);
  clock.now = begun + 1_250;
  assert.throws(() => view.ask(), /no answer in time/);
});

test("a time is that of both clocks, once the store's is known", () => {
  assert.deepEqual(new EpochTable().timesMs(5), [5, 5]);
  const { view } = leased({ boot: 1_500, now: 10_500 }); // by the store's clock, 10,500
  assert.deepEqual([view.timesMs(10_400), view.timesMs(10_600)], [[10_400, 10_500], [10_500, 10_600]]);
});

test("an entry that is applied already changes nothing", () => {
  const { view, clock, wait } = following(1_000);
  const old = { incarnation: "i", seq: 7, op: "kill", target: "realm" };
  view.takePush(old);
  assert.equal(wait(), 250);
  clock.now += 250;
  assert.ok(view.ask());
  view.takeAnswer({ ...ANSWER, at: clock.now, entries: [old] }, null);
  assert.equal(view.check("i", 7, ["realm"]), null);
  const place = { incarnation: "i", seq: 7, chain: "c" };
  for (const other of [old, { ...old, seq: 9 }, { ...old, seq: 8, incarnation: "j" }]) assert.equal(after(place, other), place);
  assert.equal(after(place, { ...old, seq: 8 }).seq, 8);
});

test("a relay that copies what the view has is not behind", () => {
  const { view, clock } = following(1);
  view.several = true;
  clock.now += 250;
  assert.ok(view.ask());
  view.takeAnswer({ ...ANSWER, at: clock.now, status: "RESYNC" }, { kills: new Map(), freezes: new Map() });
  assert.equal(view.view().applied, 7);
});

test("a wait ends as soon as its answer is known", async () => {
  const { view, send } = leased({ boot: 1_500, now: 10_500 });
  const soon = (wait: Promise<boolean>): Promise<unknown> => Promise.race([wait, new Promise((resolve) => setImmediate(resolve, "waits"))]);
  assert.equal(await soon(view.catchUp(1_000, 7, 50)), true);
  assert.equal(await soon(view.catchUp(0, 8, 50)), "waits");
  send({ do: "renew", lease: { boot: 2_500, wall: 11_500, sent: 1_500 }, clock: { at: 10_500, sent: 1_500 } });
  assert.equal(await soon(view.catchUp(0, 8, 50)), false); // the store was asked since, and has no such entry
});
