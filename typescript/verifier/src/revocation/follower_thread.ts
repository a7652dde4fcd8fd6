// SPDX-License-Identifier: Apache-2.0
/** The worker thread of a follower: it follows while the threads that decide are busy. */

import { workerData } from "node:worker_threads";
import { FollowerLoop } from "./follower_loop.ts";

new FollowerLoop(workerData.settings, workerData.port);
