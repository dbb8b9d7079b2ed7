import { lstat, readFile, writeFile } from "node:fs/promises";
import { dirname, isAbsolute, join } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { writeFileAtomic } from "../base/files.ts";
import { checkId } from "../base/ids.ts";
import { type Bootstrap, readBootstrap } from "./bootstrap.ts";
import type { Flags } from "./flags.ts";
import { groupOf, isSandboxBundle } from "./group.ts";
import type { ShimParts } from "./parts.ts";
import { identityOf, writeRecord } from "./record.ts";
import { isNobodyThere, makeSocketDirectory, socketPath } from "./socket-path.ts";
import { spawnDaemon } from "./spawn-daemon.ts";

/** Tries to find or start the daemon: another helper may be faster, a daemon may be ending. */
const maxAttempts = 5;
/** Longest wait for an ending daemon to be gone. */
const endingTimeoutMs = 10_000;

/**
 * The `start` command: makes sure that the daemon of the container's sandbox serves, and returns the answer with its
 * address. A daemon that serves already is shared by all containers of the sandbox.
 *
 * @throws invalid_argument   ids, bundle or stdin are not what they should be
 * @throws unavailable        the daemon does not come up
 */
export async function start(flags: Flags, stdin: Uint8Array, parts: ShimParts): Promise<string> {
  const namespace = checkId("namespace", flags.namespace);
  const containerId = checkId("container id", flags.id);
  checkAddress(flags.address);
  const bundle = await checkBundle(flags.bundle === "" ? process.cwd() : flags.bundle);
  const bootstrap = readBootstrap(stdin, containerId, namespace);
  const isSandbox = isSandboxBundle(bundle);
  const answer = (path: string) => formatAnswer(`unix://${path}`, bootstrap.isCurrent || isSandbox);
  const sandboxId = await groupOf(bundle, containerId);
  const { stateDirectory } = await parts.loadConfig();
  const path = socketPath({
    address: flags.address,
    namespace,
    sandboxId,
    stateDirectory,
    socketDirectory: bootstrap.socketDirectory,
  });
  await makeSocketDirectory(dirname(path));
  await makeSocketDirectory(join(stateDirectory, ".shims"));

  const note = async (pid: number) => {
    await writeFileAtomic(join(bundle, "address"), `unix://${path}`, 0o644);
    const record = { sandboxId, socketPath: path, daemon: identityOf(pid) };
    await writeRecord(stateDirectory, namespace, containerId, record);
  };
  for (let attempt = 0; attempt < maxAttempts; attempt++) {
    const running = await attach(path, containerId);
    if (running !== undefined) {
      await note(running);
      return answer(path);
    }
    const daemon = await spawnDaemon(parts.script, {
      namespace,
      sandboxId,
      containerId,
      bundle,
      isSandbox,
      socketPath: path,
      ttrpcAddress: eventAddress(flags, bootstrap),
      debug: flags.debug || bootstrap.debug,
      options: bootstrap.options && {
        typeUrl: bootstrap.options.typeUrl,
        value: Buffer.from(bootstrap.options.value).toString("base64"),
      },
    });
    if (daemon === undefined) continue;
    await joinShimCgroup(daemon.pid, bootstrap);
    await raiseOomScore(daemon.pid);
    await note(daemon.pid);
    await daemon.release();
    return answer(path);
  }
  throw new RuntimeError(
    "unavailable",
    `Cannot start sandbox "${sandboxId}": its daemon ends or changes all the time`,
  );
}

/**
 * The address, and where the caller understands it the version of the interface: with 3 containerd adds the other containers
 * of a pod to the daemon without `start` and `delete`. Since 2.0 it does, and only such a one has bundles of sandboxes;
 * with others those from 2.3 on can be told by what they write to stdin.
 */
function formatAnswer(address: string, isCurrent: boolean): string {
  return isCurrent ? JSON.stringify({ version: 3, address, protocol: "ttrpc" }) : address;
}

/** Joins the daemon that serves at `path` and returns its pid, or undefined when none does. Waits for an ending one. */
async function attach(path: string, containerId: string): Promise<number | undefined> {
  if (await lstat(path).then(() => false, isNobodyThere)) return undefined;
  const { connectShim } = await import("./shim-client.ts");
  try {
    await using shim = await connectShim(path);
    return await shim.attach(containerId, endingTimeoutMs);
  } catch (error) {
    if (isNobodyThere(error)) return undefined;
    throw error;
  }
}

/** Without containerd (our own command line) nobody takes events. */
function eventAddress(flags: Flags, bootstrap: Bootstrap): string {
  if (flags.address === "") return "";
  const address = bootstrap.ttrpcAddress || process.env["TTRPC_ADDRESS"] || "";
  return checkAddress(address);
}

function checkAddress(address: string): string {
  if (!/[\0\r\n]/.test(address)) return address;
  throw new RuntimeError(
    "invalid_argument",
    `Cannot use the address ${JSON.stringify(address)}: it holds a line break`,
  );
}

async function checkBundle(bundle: string): Promise<string> {
  if (!isAbsolute(bundle)) {
    throw new RuntimeError("invalid_argument", `Cannot use bundle "${bundle}": expected an absolute path`);
  }
  const stat = await lstat(bundle).catch((cause: unknown) => {
    throw new RuntimeError("not_found", `Cannot use bundle "${bundle}"`, { cause });
  });
  if (stat.isDirectory()) return bundle;
  throw new RuntimeError("invalid_argument", `Cannot use bundle "${bundle}": expected a directory`);
}

/** The options of runc may name a cgroup for the daemon, whose children then are in it too. */
async function joinShimCgroup(pid: number, { options }: Bootstrap): Promise<void> {
  if (options === undefined) return;
  const { readOptions } = await import("./options.ts");
  const read = readOptions(options);
  if (read.tag !== "runc" || read.shimCgroup === "") return;
  const { joinCgroup } = await import("../base/cgroups.ts");
  await joinCgroup(read.shimCgroup, pid);
}

/** The daemon shall be killed for want of memory before containerd, whose score the helper has inherited. */
async function raiseOomScore(pid: number): Promise<void> {
  try {
    const own = Number(await readFile("/proc/self/oom_score_adj", "utf8"));
    await writeFile(`/proc/${pid}/oom_score_adj`, String(Math.min(own + 1, 1000)));
  } catch {
    // Best effort: not permitted in a user namespace.
  }
}
