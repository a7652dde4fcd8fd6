// SPDX-License-Identifier: Apache-2.0
// A real server of Valkey or Redis, and what it may answer to a follower and to shared nonces.

import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import net, { type AddressInfo } from "node:net";
import os from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { createClient } from "@redis/client";
import { FeedError } from "../src/errors.ts";
import { UnattestedError } from "../src/revocation/follower_core.ts";
import type { EpochEntry } from "../src/revocation/history.ts";
import { kindOf } from "../src/revocation/store_client.ts";
import { StoreLink } from "../src/revocation/store_link.ts";
import { parseStoreUrl } from "../src/revocation/store_url.ts";
import { BRIEF_MS } from "../src/verification/nonces.ts";
import { SharedNonces } from "../src/verification/sharedNonces.ts";

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "arx-"));
const program = ["valkey-server", "redis-server"].find((name) => spawnSync(name, ["--version"]).status === 0) ?? "valkey-server";
// A server must not outlive this process, also if that is killed, as one of a mutant that hangs.
const bound = spawnSync("setpriv", ["--version"]).status === 0 ? ["setpriv", "--pdeathsig", "KILL"] : [];
const started: ChildProcess[] = [];
const closing: (() => void)[] = [];
after(() => {
  for (const close of closing) close();
  for (const child of started) child.kill("SIGKILL");
  fs.rmSync(folder, { recursive: true });
});

async function start(place: net.NetConnectOpts, ...words: string[]): Promise<ChildProcess> {
  const [command = program, ...rest] = [...bound, program, ...words];
  const child = spawn(command, rest, { cwd: folder, stdio: "ignore" });
  started.push(child);
  for (;;) {
    const probe = net.connect(place);
    try {
      await once(probe, "connect");
      return child;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 20));
    } finally {
      probe.destroy();
    }
  }
}

async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

const [socket, port] = [path.join(folder, "s"), await freePort()];
const server = await start({ path: socket }, "--port", String(port), "--unixsocket", socket, "--save", "", "--maxmemory-policy", "noeviction");
const URL = `unix://${socket}`;
const admin = createClient({ socket: { path: socket, tls: false } });
await admin.connect();
closing.push(() => admin.destroy());
const send = (...words: string[]): Promise<unknown> => admin.sendCommand(words);

/** Its functions answer what a key has, in JSON; a text that begins with `!` is an error. */
const LIBRARY = `#!lua name=arx1
local function answer(name)
  local text = redis.call('GET', name)
  if string.sub(text, 1, 1) == '!' then return redis.error_reply(string.sub(text, 2)) end
  return cjson.decode(text)
end
redis.register_function('arx1_probe', function() return answer('probe') end)
redis.register_function('arx1_copy', function(_, args) return answer('copy:' .. args[1]) end)
redis.register_function('arx1_spend', function() return answer('spend') end)`;
await send("FUNCTION", "LOAD", LIBRARY);

const PLACE = { incarnation: "i", seq: 7, chain: "c" };
const probed = ["i", 7, 1000, 1000, "OK", 3_600_000, "c", 1, [["8-0", ["op", "kill", "s", "realm"]]]];

async function open(url = URL, timeoutMs = 5_000) {
  const pushed: EpochEntry[] = [];
  const came = Promise.withResolvers<FeedError | EpochEntry>();
  const push = (entry: EpochEntry): void => void (pushed.push(entry), came.resolve(entry));
  const link = await StoreLink.open(parseStoreUrl(url), "acme", timeoutMs, { push, end: came.resolve });
  closing.push(() => link.close());
  return { link, came: came.promise };
}

test("an answer of an unknown form is none", async () => {
  const { link } = await open();
  const probe = async (answer: unknown) => {
    await send("SET", "probe", JSON.stringify(answer));
    return link.probe("orders-1", PLACE);
  };
  assert.deepEqual((await probe(probed)).entries, [{ incarnation: "i", seq: 8, op: "kill", target: "realm" }]);
  const replaced = (at: number, value: unknown): unknown[] => probed.with(at, value as never);
  const entry = (key: unknown, fields: unknown): unknown[] => replaced(8, [[key, fields]]);
  for (const odd of [
    "x", probed.slice(0, 8), [...probed, 1], replaced(0, 5), replaced(1, "7"), replaced(4, "WELL"), replaced(6, 5), replaced(8, "x"), replaced(8, ["x"]),
    entry(8, ["op", "kill", "s", "realm"]), entry("8-0", "x"), entry("8-0", ["op", "kill"]), entry("8-0", ["s", "realm"]),
    entry("8-0", ["op", "kill", "s", "a b"]), entry("8-0", ["op", 5, "s", "realm"]), entry("x-0", ["op", "kill", "s", "realm"]),
  ]) await assert.rejects(probe(odd), FeedError, JSON.stringify(odd));
});

test("a copy has each page, and no page of an unknown form", async () => {
  const { link } = await open();
  const copy = async (...pages: unknown[]) => {
    for (const [at, page] of pages.entries()) await send("SET", `copy:${at}`, JSON.stringify(page));
    return link.copy();
  };
  const kills = new Map([["session:a", 1], ["session:b", 2]]);
  assert.deepEqual(await copy(["1", "session:a 1"], ["0", "session:b 2"]), { kills, freezes: kills });
  assert.equal((await copy(["0", ""])).kills.size, 0);
  for (const odd of ["x", [0, "session:a 1"], ["0", 5], ["0", "session:a"], ["0", "session:a x"]]) {
    await assert.rejects(copy(odd), FeedError, JSON.stringify(odd));
  }
});

test("a push is one entry", async () => {
  for (const [message, entry] of [
    ["i 8 kill realm", { incarnation: "i", seq: 8, op: "kill", target: "realm" }], ["i 8 kill", undefined], ["i 8 kill realm more", undefined], ["i x kill realm", undefined],
  ] as const) {
    const { came } = await open();
    await send("SPUBLISH", "arx:{acme}:ch", message);
    const got = await came;
    if (entry === undefined) assert.ok(got instanceof FeedError, message);
    else assert.deepEqual(got, entry);
  }
});

test("an error has what an operator can do, and no login", async () => {
  const { link } = await open();
  const why = async (error: string): Promise<string> => {
    await send("SET", "probe", `!${error}`);
    return link.probe("orders-1", PLACE).then(() => "", (caught) => (assert.ok(caught instanceof FeedError), caught.message));
  };
  assert.match(await why("UNATTESTED x"), /start the mint/);
  await assert.rejects(link.probe("orders-1", PLACE), UnattestedError);
  assert.match(await why("NOPERM x"), /arx redis acl --role verifier/);
  assert.equal(await why("ERR other"), "the store refused: ERR other");
  await send("ACL", "SETUSER", "few", "on", ">secret", "~*", "&*", "+@all", "-info");
  await assert.rejects(open(`unix://few:wrong@${socket}`), /^Error: the store refused the user or password: set ARX_STORE_PASSWORD/);
  const file = path.join(folder, "password");
  fs.writeFileSync(file, "secret", { mode: 0o600 });
  const address = parseStoreUrl(`unix://few@${socket}`, { file });
  fs.rmSync(file);
  const on = { push: () => undefined, end: () => undefined };
  await assert.rejects(StoreLink.open(address, "acme", 5_000, on), { message: `cannot connect: ${file}: ENOENT` });
  server.kill("SIGSTOP");
  await assert.rejects(open(URL, 50), { message: "no answer in time" });
  server.kill("SIGCONT");
  const named = Object.assign(new Error("connect redis://u:secret@h"), { code: "ECONNREFUSED" });
  assert.deepEqual([kindOf(named), kindOf("secret"), kindOf(new TypeError("secret"))], ["ECONNREFUSED", "string", "TypeError"]);
});

test("Sentinels name a server, which has to be a primary", async () => {
  const [watch, file] = [await freePort(), path.join(folder, "sentinel.conf")];
  fs.writeFileSync(file, `port ${watch}\nsentinel monitor main 127.0.0.1 ${port} 1\n`);
  await start({ port: watch }, file, "--sentinel");
  await send("SET", "probe", JSON.stringify(probed));
  const by = (service: string): string => `redis+sentinel://127.0.0.1:${watch}/${service}`;
  const { link } = await open(by("main"));
  assert.equal((await link.probe("orders-1", PLACE)).seq, 7);
  await assert.rejects(open(by("other")), /none of the Sentinels named can say/);
  await send("REPLICAOF", "127.0.0.1", "1");
  await assert.rejects(open(by("main")), /is no primary yet/);
  assert.ok((await open()).link); // without Sentinels any server, as a replica knows each kill
  await send("REPLICAOF", "NO", "ONE");
});

test("shared nonces have one connection, and refuse a call that the server does not answer", async () => {
  const nonces = new SharedNonces(URL, "a:");
  closing.push(() => nonces.close());
  const spend = (key: string, ms = 1_000, by = nonces) => by.spend(key, Date.now() + ms, Date.now());
  await send("SET", "spend", '"OK"');
  assert.equal(await spend("x"), "new");
  const clients = async (): Promise<number> => String(await send("CLIENT", "LIST")).trim().split("\n").length;
  const before = await clients();
  await send("SET", "spend", "null");
  assert.equal(await spend("x"), "used");
  assert.equal(await clients(), before);
  await send("SET", "spend", "!ERR other");
  assert.equal(await spend("y"), "full");
  assert.equal(await send("EXISTS", "a:y"), 0);
  await send("SET", "spend", '"OK"');
  const used = Number(/used_memory:(\d+)/.exec(String(await send("INFO", "memory")))?.[1]);
  await send("CONFIG", "SET", "maxmemory", String(Math.round(1.5 * used))); // more than half is in use
  const now = Date.now();
  assert.deepEqual([await nonces.spend("z", now + BRIEF_MS, now), await nonces.spend("z", now + BRIEF_MS + 1, now)], ["new", "full"]);
  await send("CONFIG", "SET", "maxmemory", "0");
  await send("FUNCTION", "DELETE", "arx1"); // a server for nonces alone has none
  assert.deepEqual([await spend("once"), await spend("once")], ["new", "used"]);
});

test("an outage of shared nonces is one warning, with what an operator can do", async () => {
  const warned: string[] = [];
  process.on("warning", ({ message }) => void warned.push(message));
  const spent = async (login: string): Promise<string[]> => {
    const nonces = new SharedNonces(`unix://${login}${socket}`, "b:");
    const outcomes = [await nonces.spend("x", Date.now() + 1_000, Date.now()), await nonces.spend("y", Date.now() + 1_000, Date.now())];
    await new Promise(setImmediate);
    nonces.close();
    return [...outcomes, ...warned.splice(0)];
  };
  await send("ACL", "SETUSER", "few", "on", ">secret", "~*", "&*", "+@all", "-info");
  assert.deepEqual(await spent("few:secret@"), ["new", "new"]); // it may not ask when the server started
  assert.match((await spent("few:wrong@")).join(), /^full,full,each call is refused.*: the nonce store refused the user or password: set ARX_NONCES_PASSWORD/);
  await send("CONFIG", "SET", "maxmemory-policy", "allkeys-lru");
  assert.match((await spent("")).join(), /^full,full,[^,]*store_unavailable\): the nonce store may evict live nonces/);
});
