// SPDX-License-Identifier: Apache-2.0
/** The worker thread of a follower: it follows while the threads that decide are busy. */

import { type MessagePort, parentPort, workerData } from "node:worker_threads";
import { FollowerLoop, type FollowerSettings, type Order } from "./follower_loop.ts";

const loop = new FollowerLoop(workerData as FollowerSettings);
const orders = parentPort as MessagePort;
orders.on("message", (order: Order) => void loop.take(order)?.finally(() => orders.close()));
