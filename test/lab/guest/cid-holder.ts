/**
 * One of several daemons that take CIDs at the same time: `cid-holder.ts COUNT NUMBER` begins when its stdin says so, takes
 * NUMBER of the COUNT lowest CIDs, all tried in the same order, prints them, and holds them until its stdin ends.
 */
import { once } from "node:events";
import { openVhostVsock, type VhostVsock } from "../../../src/hypervisor/vhost-vsock.ts";

const lowestCid = 3;
const [count = 0, number = 0] = process.argv.slice(2).map(Number);

process.stdout.write("ready\n");
await once(process.stdin, "data");
let next = 0;
const held: VhostVsock[] = [];
for (let index = 0; index < number; index++) {
  const device = openVhostVsock(() => lowestCid + (next++ % count));
  if (device === undefined) throw new Error("This kernel has no vhost-vsock");
  held.push(device);
}
process.stdout.write(`${held.map(({ cid }) => cid).join(" ")}\n`);
await once(process.stdin, "end");
for (const device of held) device[Symbol.dispose]();
