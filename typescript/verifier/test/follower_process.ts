// SPDX-License-Identifier: Apache-2.0
/**
 * `node follower_process.ts URL REALM NAME THREADS [loop]`: a process of threads that decide by one follower.
 *
 * It prints `live`.  For each line `DO INCARNATION BORN TARGET…` each thread answers a line: `check` with the code of
 * each target; `watch` with `ready` once it accepts each, then blocks its event loop until it refuses each as revoked,
 * and answers `done` with the last moment, ns of the monotonic clock, at which it began a check that accepted.
 */

import fs from "node:fs";
import readline from "node:readline";
import { isMainThread, type MessagePort, parentPort, Worker, workerData } from "node:worker_threads";
import { FollowedView, Follower } from "../src/revocation/follower.ts";

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
      } else if (refused.code === "revoked" || refused.code === "frozen") left.delete(target);
    }
    if (!isReady && accepted === targets.length) {
      isReady = true;
      say("ready");
    }
  }
  say(left.size === 0 ? `done ${last}` : "late");
}

function answer(view: FollowedView, line: string): void {
  const [command, incarnation = "", born = "", ...targets] = line.split(" ");
  if (command === "watch") watch(view, incarnation, Number(born), targets);
  else say(targets.map((target) => view.check(incarnation, Number(born), [target])?.code ?? "accepted").join(" "));
}

if (isMainThread) {
  const [url, realm, name, threads, loop] = process.argv.slice(2) as [string, string, string, string, string?];
  const follower = new Follower(url, realm, name, { thread: loop !== "loop", log: (_, text) => fs.writeSync(2, `${text}\n`) });
  const workers = Array.from({ length: Number(threads) - 1 }, () => {
    const port = follower.port();
    return new Worker(new URL(import.meta.url), { workerData: port, transferList: [port] });
  });
  await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once("message", resolve))));
  say((await follower.catchUp(0, 0, 20_000)) ? "live" : "dead");
  for await (const line of readline.createInterface({ input: process.stdin })) {
    for (const worker of workers) worker.postMessage(line);
    if (workers.length > 0) await new Promise(setImmediate); // the messages leave before this thread is blocked
    answer(follower, line);
  }
  await follower.close();
  say("closed");
  process.exit(0);
} else {
  const view = new FollowedView(workerData as MessagePort);
  const parent = parentPort as MessagePort;
  parent.on("message", (line: string) => answer(view, line));
  parent.postMessage(await view.catchUp(0, 0, 20_000));
}
