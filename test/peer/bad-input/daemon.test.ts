// Ids, bootstrap, frames and CreateTask of the list of bad input, against the daemon's process (with the sandbox that has
// no VM), by their numbers there. Which other tests have the rest, and what cannot occur, is in README.md.
import { readFileSync, symlinkSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { afterAll, beforeAll, expect, test } from "vitest";
import { isAlive, signalProcess } from "../../../src/base/processes.ts";
import { containerd } from "../../../src/gen/bootstrap.js";
import { containerd as tasks } from "../../../src/gen/containerd.js";
import { taskMethods } from "../../../src/shim/task-api.ts";
import type { TtrpcClient } from "../../../src/ttrpc/client.ts";
import { encodeFrame } from "../../../src/ttrpc/frame.ts";
import { createShimProcess, ended, runContainer, service, type ShimProcess } from "../shim/shim-process.ts";
import { connectRaw, requestFrame } from "../ttrpc/raw-client.ts";

const { Status } = tasks.v1.types;
const processType = "types.containerd.io/opencontainers/runtime-spec/1/Process";
const spec = { type_url: processType, value: Buffer.from('{"args":["sleep"]}') };
/** Field 1 as the start of a group, in a group, in a group … */
const nestedGroups = Buffer.alloc(1024 * 1024, 0x0b);

/** One daemon for all rows: what one of them left would show in the next. */
let shim: ShimProcess;
let client: TtrpcClient;
let socketPath: string;
let bundle: string;

beforeAll(async () => {
  shim = createShimProcess();
  bundle = shim.makeBundle("a", ["sleep"]);
  const started = await shim.start({ id: "a" });
  client = started.client;
  socketPath = started.address.slice("unix://".length);
  await runContainer(client, "a", bundle);
});
afterAll(async () => {
  await client[Symbol.asyncDispose]();
  await shim[Symbol.asyncDispose]();
});

/** The daemon is the same, serves, and has what it had. */
async function expectUnharmed(before: readonly string[]): Promise<void> {
  expect(isAlive(shim.record("a").daemon)).toBe(true);
  const { shimPid } = await client.call(service, taskMethods.connect, { id: "a" });
  expect(shimPid).toBe(shim.record("a").daemon.pid);
  expect((await client.call(service, taskMethods.state, { id: "a" })).status).toBe(Status.RUNNING);
  expect((await client.call(service, taskMethods.pids, { id: "a" })).processes).toHaveLength(1);
  expect(shim.leftovers()).toEqual(before);
}

const ids = [
  ["1", ""],
  ["2", "."],
  ["3", ".."],
  ["4", "../x"],
  ["5", "a/b"],
  ["6", "a\0b"],
  ["7", "a".repeat(77)],
  ["8", "-rf"],
  ["8", "--help"],
  ["9", "a..b"],
  ["10", "a\nb"],
  ["10", "\u001b[2J"],
  ["11", "ａ"],
  ["11", "\u202ea"],
  ["12", "%2e%2e"],
  ["14", "__proto__"],
] as const;

interface Row {
  readonly name: string;
  readonly call: () => Promise<unknown>;
  readonly code: string;
  readonly message: RegExp;
}

const create = (fields: object) => client.call(service, taskMethods.create, { id: "b", bundle, ...fields });
const exec = (fields: object) =>
  client.call(service, taskMethods.exec, { id: "a", execId: "e", spec, ...fields });

const rows: readonly Row[] = [
  ...ids.map(([number, id]) => ({
    name: `${number} Create of the id ${JSON.stringify(id).slice(0, 20)}`,
    call: () => create({ id }),
    code: "invalid_argument",
    message: /^Cannot use container id "[ -~]*/,
  })),
  ...ids.map(([number, execId]) => ({
    name: `16 Exec of the id ${number} ${JSON.stringify(execId).slice(0, 20)}`,
    call: () => exec({ execId }),
    code: "invalid_argument",
    message: /^Cannot use exec id "/,
  })),
  {
    name: "4 State of a path",
    call: () => client.call(service, taskMethods.state, { id: "../a" }),
    code: "invalid_argument",
    message: /^Cannot use container id "\.\.\/a"/,
  },
  {
    name: "16 Kill of a path",
    call: () => client.call(service, taskMethods.kill, { id: "a", execId: "a/b", signal: 9 }),
    code: "invalid_argument",
    message: /^Cannot use exec id "a\/b"/,
  },
  {
    name: "17 Exec of the container's id",
    call: () => exec({ execId: "a" }),
    code: "already_exists",
    message: /exec "a"/,
  },
  {
    name: "14 State of a name that every object has",
    call: () => client.call(service, taskMethods.state, { id: "constructor" }),
    code: "not_found",
    message: /"constructor"/,
  },
  {
    name: "18 Create of a relative bundle",
    call: () => create({ bundle: "b" }),
    code: "invalid_argument",
    message: /^Cannot create "b": bundle "b"/,
  },
  {
    name: "18 Create of a bundle with NUL",
    call: () => create({ bundle: "/b\0" }),
    code: "invalid_argument",
    message: /^Cannot create "b": bundle "\/b\\u0000"/,
  },
  {
    name: "43 Create with a hundred thousand mounts",
    call: () => create({ rootfs: Array.from({ length: 100_000 }, () => ({})) }),
    code: "resource_exhausted",
    message: /more than 10000 fields/,
  },
  {
    name: "57 Create from a checkpoint",
    call: () => create({ checkpoint: "/c" }),
    code: "unimplemented",
    message: /^Cannot create "b": checkpoints/,
  },
  {
    name: "57 Checkpoint",
    call: () => client.call(service, taskMethods.checkpoint, { id: "a", path: "/c" }),
    code: "unimplemented",
    message: /method Checkpoint/,
  },
  {
    name: "58 Create with runc's options that are none",
    call: () =>
      create({ options: { type_url: "containerd.runc.v1.Options", value: Buffer.from("ffff", "hex") } }),
    code: "invalid_argument",
    message: /options of type "containerd\.runc\.v1\.Options"/,
  },
  {
    name: "59 Update of an unknown type",
    call: () =>
      client.call(service, taskMethods.update, {
        id: "a",
        resources: { type_url: "x.Y", value: Buffer.from("{}") },
      }),
    code: "invalid_argument",
    message: /^Cannot update "a": its resources have the type "x\.Y"/,
  },
  {
    name: "Exec of another type",
    call: () => exec({ spec: { type_url: "x.Y", value: Buffer.from("{}") } }),
    code: "invalid_argument",
    message: /^Cannot register exec "e": its spec has the type "x\.Y"/,
  },
  ...[0, 65, 4_294_967_295].map((signal) => ({
    name: `Kill with signal ${signal}`,
    call: () => client.call(service, taskMethods.kill, { id: "a", signal }),
    code: "invalid_argument",
    message: /^Cannot send signal \d+: expected 1 to 64/,
  })),
];

test.each(rows)("$name is $code, and the daemon goes on", async ({ call, code, message }) => {
  const before = shim.leftovers();

  await expect(call()).rejects.toMatchObject({ code, message: expect.stringMatching(message) });

  await expectUnharmed(before);
});

interface PayloadRow {
  readonly name: string;
  readonly method: string;
  readonly payload: Uint8Array;
  readonly code: number;
  readonly message: string;
}

const payloads: readonly PayloadRow[] = [
  {
    name: "37 a Create that is no message",
    method: "Create",
    payload: Buffer.from("0aff", "hex"),
    code: 3,
    message: "decode",
  },
  {
    name: "37 an id that is not UTF-8",
    method: "State",
    payload: Buffer.from("0a02fffe", "hex"),
    code: 3,
    message: "decode",
  },
  { name: "38 an empty Create", method: "Create", payload: Buffer.of(), code: 3, message: "bundle" },
  {
    name: "40 a method of every object",
    method: "toString",
    payload: Buffer.of(),
    code: 12,
    message: "method toString",
  },
  {
    name: "42 a million groups in each other",
    method: "Create",
    payload: nestedGroups,
    code: 3,
    message: "decode",
  },
  // The last one counts, as in the agent's reader: "b" is not there.
  {
    name: "50 an id that is there twice",
    method: "State",
    payload: Buffer.from("0a01610a0162", "hex"),
    code: 5,
    message: '"b"',
  },
];

test.each(payloads)(
  "$name is answered, and the daemon goes on",
  async ({ method, payload, code, message }) => {
    const before = shim.leftovers();
    await using raw = await connectRaw(socketPath);

    raw.send(requestFrame(1, { service, method, payload }));

    expect(await raw.status()).toMatchObject({
      streamId: 1,
      code,
      message: expect.stringContaining(message),
    });
    await expectUnharmed(before);
  },
);

test("13, 14 ids that differ in case, and the name of every object, are containers and execs as any", async () => {
  const before = shim.leftovers();
  for (const id of ["A", "constructor"]) {
    await runContainer(client, id, bundle);
    await client.call(service, taskMethods.exec, { id, execId: "hasOwnProperty", spec });
    await client.call(service, taskMethods.start, { id, execId: "hasOwnProperty" });

    expect((await client.call(service, taskMethods.state, { id, execId: "hasOwnProperty" })).id).toBe(id);

    await client.call(service, taskMethods.kill, { id, signal: 9, all: true });
    await client.call(service, taskMethods.wait, { id });
    await client.call(service, taskMethods.delete, { id });
  }
  await expectUnharmed(before);
});

/** Resident memory in MiB. */
function memoryOf(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return Number(/^VmRSS:\s*(\d+)/m.exec(status)?.[1]) / 1024;
}

test("26-28, 35, 36, 47 hundreds of connections with half of a frame cost nothing and delay nobody", async () => {
  const before = shim.leftovers();
  const { pid } = shim.record("a").daemon;
  const memoryBefore = memoryOf(pid);
  const header = encodeFrame({ streamId: 1, type: 1, flags: 0 }, Buffer.of());
  const beginnings = [0, 100, 4 * 1024 * 1024, 4 * 1024 * 1024 + 1, 0xffff_ffff].map((length) => {
    const bytes = Buffer.concat([header, Buffer.alloc(length % 10)]);
    bytes.writeUInt32BE(length, 0);
    return bytes;
  });
  const sockets: Socket[] = [];

  for (let count = 0; count < 500; count++) {
    const socket = connect(socketPath);
    socket.on("error", () => {});
    const bytes = beginnings[count % beginnings.length] ?? header;
    // A part of a header, a header, some of the data.
    socket.write(bytes.subarray(0, 1 + (count % bytes.length)));
    // Some go away in the middle.
    if (count % 7 === 0) socket.end();
    if (count % 11 === 0) socket.destroy();
    sockets.push(socket);
  }
  await expectUnharmed(before);

  expect(memoryOf(pid) - memoryBefore).toBeLessThan(64);
  for (const socket of sockets) socket.destroy();
  await expectUnharmed(before);
});

test("43, 46 twenty clients with a million empty fields each do not add up", async () => {
  const before = shim.leftovers();
  const { pid } = shim.record("a").daemon;
  const memoryBefore = memoryOf(pid);
  const payload = Buffer.alloc(2_000_000, "1a00", "hex");

  await Promise.all(
    Array.from({ length: 20 }, async () => {
      await using raw = await connectRaw(socketPath);
      for (const streamId of [1, 3]) raw.send(requestFrame(streamId, { service, method: "Create", payload }));
      for (const streamId of [1, 3]) expect(await raw.status()).toMatchObject({ streamId, code: 8 });
    }),
  );

  // The bytes themselves are held while they come; each was refused before anything was made of it.
  expect(memoryOf(pid) - memoryBefore).toBeLessThan(200);
  await expectUnharmed(before);
});

const params = (fields: object) =>
  containerd.runtime.bootstrap.v1.BootstrapParams.encode({ instanceId: "s", ...fields }).finish();

interface StartRow {
  readonly name: string;
  readonly start: (own: ShimProcess) => Parameters<ShimProcess["run"]>[1];
  readonly want: RegExp;
}

const refusedStarts: readonly StartRow[] = [
  ...["", "..", "a b", "a".repeat(77), "ａ", "-rf", "__proto__"].map((namespace) => ({
    name: `15 the namespace ${JSON.stringify(namespace).slice(0, 20)}`,
    start: () => ({ id: "s", flags: [`-namespace=${namespace}`] }),
    want: /^Cannot use namespace "/,
  })),
  {
    name: "18 a bundle that is a symbolic link",
    start: (own) => {
      symlinkSync(own.dir.join("bundles", "s"), own.dir.join("link"));
      return { id: "s", flags: ["-bundle", own.dir.join("link")] };
    },
    want: /^Cannot use bundle ".*\/link": expected a directory/,
  },
  {
    name: "19 an address for events with a line break",
    start: () => ({
      id: "s",
      flags: ["-address", "/run/x.sock"],
      environment: { TTRPC_ADDRESS: "/run/x.ttrpc\nLD_PRELOAD=x" },
    }),
    want: /^Cannot use the address "\/run\/x\.ttrpc\\nLD_PRELOAD=x": it holds a line break/,
  },
  {
    name: "19 an address for events with NUL on stdin",
    start: (own) => ({
      id: "s",
      flags: ["-address", "/run/x.sock"],
      stdin: params({
        namespace: own.namespace,
        socketDir: own.dir.join("s"),
        containerdTtrpcAddress: "/a\0b",
      }),
    }),
    want: /^Cannot use the address "\/a\\u0000b"/,
  },
  {
    name: "23 runtime options that are none",
    start: (own) => ({
      id: "s",
      stdin: params({
        namespace: own.namespace,
        extensions: [{ value: { type_url: "runtimeoptions.v1.Options", value: Buffer.from("ffff", "hex") } }],
      }),
    }),
    want: /^Cannot decode the options of type "runtimeoptions\.v1\.Options"/,
  },
];

test.each(refusedStarts)("start refuses $name and leaves nothing", async ({ start, want }) => {
  await using own = createShimProcess();
  own.makeBundle("s", ["sleep"]);

  const outcome = await own.run("start", start(own));

  expect(outcome.exitCode).toBe(1);
  expect(outcome.stderr).toMatch(want);
  expect(outcome.stderr.trimEnd()).not.toContain("\n");
  expect(outcome.stdout).toHaveLength(0);
  // The directory for sockets may have been made: it is everybody's.
  expect(own.leftovers().filter((path) => !path.endsWith("/.shims"))).toEqual([]);
});

const acceptedStarts: readonly Omit<StartRow, "want">[] = [
  {
    name: "24 an extension that nobody knows",
    start: (own) => ({
      id: "s",
      stdin: params({
        namespace: own.namespace,
        extensions: [{ value: { type_url: "x.v1.Options", value: Buffer.from("ffff", "hex") } }],
      }),
    }),
  },
  ...["3", "-1", "two", "9".repeat(1000)].map((version) => ({
    // The contract: it says 2 whatever the containerd, and nothing can be learned from it.
    name: `25 MAX_SHIM_VERSION=${version.slice(0, 10)}`,
    start: () => ({ id: "s", environment: { MAX_SHIM_VERSION: version } }),
  })),
];

test.each(acceptedStarts)("start goes by nothing of $name", async ({ start }) => {
  await using own = createShimProcess();
  const ownBundle = own.makeBundle("s", ["exit", "0"]);

  const started = await own.start(start(own));

  await runContainer(started.client, "s", ownBundle);
  const { daemon } = own.record("s");
  await started.client[Symbol.asyncDispose]();
  signalProcess(daemon, "SIGTERM");
  expect(await ended(daemon)).toBe(true);
});
