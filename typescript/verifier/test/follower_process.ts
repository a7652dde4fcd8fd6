// SPDX-License-Identifier: Apache-2.0
/**
 * `node follower_process.ts URL REALM NAME THREADS [loop]`: a process of threads that decide, each by a follower.
 * That of the main thread has the name, and the others `NAME-1` and so on.
 *
 * It prints `live`.  For each line `DO INCARNATION BORN TARGET…` each thread answers a line.
 *
 * `check`: the code of each target.
 * `watch`: `ready` once it accepts each.  Then it blocks its event loop until it refuses each as revoked or frozen, and
 * answers `done` with the last moment, ns of the monotonic clock, at which it began a check that accepted.
 * `use`: `ready` once it accepts each.  Then it goes on, without blocking its event loop, until it refuses one, and
 * answers the code, and the moment as above.
 * `hold`: as `use`, but with its event loop blocked.
 * `back`: `back` once it accepts each again.
 */

import { once } from "node:events";
import fs from "node:fs";
import readline from "node:readline";
import { setTimeout } from "node:timers/promises";
import { isMainThread, type MessagePort, parentPort, Worker, workerData } from "node:worker_threads";
import { type FollowedView, Follower } from "../src/revocation/follower.ts";

const NAP = new Int32Array(new SharedArrayBuffer(4));
const LATEST_MS = 120_000;

function say(line: string): void {
  fs.writeSync(1, `${line}\n`);
}

function watch(view: FollowedView, incarnation: string, born: number, targets: string[]): void {
  let left = new Set(targets);
  let last = 0n;
  let isReady = false;
  for (const end = Date.now() + LATEST_MS; left.size > 0 && Date.now() < end; Atomics.wait(NAP, 0, 0, 1)) {
    let accepted = 0;
    for (const target of left) {
      const began = process.hrtime.bigint();
      const refused = view.check(incarnation, born, [target]);
      if (refused === null) {
        last = began;
        accepted++;
      } else if (refused === "revoked" || refused === "frozen") left.delete(target);
    }
    if (!isReady && accepted === targets.length) {
      isReady = true;
      say("ready");
    }
  }
  say(left.size === 0 ? `done ${last}` : "late");
}

async function use(view: FollowedView, incarnation: string, born: number, targets: string[], isOver: boolean): Promise<void> {
  let last = 0n;
  for (const end = Date.now() + LATEST_MS; Date.now() < end; await setTimeout(1)) {
    const began = process.hrtime.bigint();
    const refused = targets.map((target) => view.check(incarnation, born, [target])).find((each) => each !== null);
    if (refused === undefined) {
      if (isOver) return say("back");
      if (last === 0n) say("ready");
      last = began;
    } else if (last > 0n) return say(`${refused} ${last}`);
  }
  say("late");
}

function hold(view: FollowedView, incarnation: string, born: number, targets: string[]): void {
  let last = 0n;
  for (const end = Date.now() + LATEST_MS; Date.now() < end; Atomics.wait(NAP, 0, 0, 1)) {
    const began = process.hrtime.bigint();
    const refused = targets.map((target) => view.check(incarnation, born, [target])).find((each) => each !== null);
    if (refused !== undefined) {
      if (last > 0n) return say(`${refused} ${last}`);
      continue;
    }
    if (last === 0n) say("ready");
    last = began;
  }
  say("late");
}

async function answer(view: FollowedView, line: string): Promise<void> {
  const [command, incarnation = "", born = "", ...targets] = line.split(" ");
  if (command === "watch") watch(view, incarnation, Number(born), targets);
  else if (command === "hold") hold(view, incarnation, Number(born), targets);
  else if (command === "use" || command === "back") await use(view, incarnation, Number(born), targets, command === "back");
  else say(targets.map((target) => view.check(incarnation, Number(born), [target]) ?? "accepted").join(" "));
}

const [url, realm, name, threads, loop] = process.argv.slice(2) as [string, string, string, string, string?];
const follower = new Follower(url, realm, isMainThread ? name : `${name}-${workerData}`, { thread: loop !== "loop" });

if (isMainThread) {
  const workers = Array.from({ length: Number(threads) - 1 }, (_, at) => {
    return new Worker(new URL(import.meta.url), { workerData: at + 1, argv: process.argv.slice(2) });
  });
  await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once("message", resolve))));
  say((await follower.catchUp(0, 0, 20_000)) ? "live" : "dead");
  for await (const line of readline.createInterface({ input: process.stdin })) {
    for (const worker of workers) worker.postMessage(line);
    if (workers.length > 0) await new Promise(setImmediate); // the messages leave before this thread is blocked
    await answer(follower, line);
  }
  for (const worker of workers) worker.postMessage("close");
  await Promise.all([follower.close(), ...workers.map((worker) => once(worker, "exit"))]);
  say("closed");
  process.exit(0);
} else {
  const parent = parentPort as MessagePort;
  parent.on("message", (line: string) => void (line === "close" ? follower.close().then(() => parent.close()) : answer(follower, line)));
  parent.postMessage(await follower.catchUp(0, 0, 20_000));
}
