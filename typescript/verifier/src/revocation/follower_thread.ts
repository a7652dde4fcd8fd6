// SPDX-License-Identifier: Apache-2.0
/** The worker thread of a follower: it follows while the threads that decide are busy. */

import { type MessagePort, parentPort, workerData } from "node:worker_threads";
import { FollowerLoop, type FollowerSettings } from "./follower_loop.ts";

/** What the thread of a `Follower` is sent. */
export type Order = { readonly port: MessagePort } | { readonly stop: true };

const loop = new FollowerLoop(workerData as FollowerSettings);
const orders = parentPort as MessagePort;
orders.on("message", (order: Order) => {
  if ("port" in order) loop.add(order.port);
  else void loop.stop().finally(() => orders.close());
});
loop.start();
