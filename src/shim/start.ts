import { lstat } from "node:fs/promises";
import { dirname, isAbsolute, join } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { checkId } from "../base/ids.ts";
import { type Bootstrap, readBootstrap } from "./bootstrap.ts";
import type { Flags } from "./flags.ts";
import { groupOf, isSandboxBundle } from "./group.ts";
import type { Environment, ShimParts } from "./parts.ts";
import type { SandboxRequest } from "./served-sandbox.ts";
import { noteContainer, type StartCaller } from "./note.ts";
import { isNobodyThere, makeSocketDirectory, socketPath } from "./socket-path.ts";

/** Tries to find a daemon or to become it: another one may be faster, or be ending. */
const maxAttempts = 5;
/** Longest wait for an ending daemon to be gone. */
const endingTimeoutMs = 10_000;

/** Makes this process the daemon of a sandbox. False: another one serves at the socket. */
export type Serve = (request: SandboxRequest) => Promise<boolean>;

/** What `start` is called with. */
export interface StartOptions {
  readonly flags: Flags;
  readonly stdin: Uint8Array;
  readonly environment: Environment;
  /** Whether the process that becomes the daemon can have other sandboxes too. */
  readonly servesMany: boolean;
}

/**
 * The `start` command, run by the process that becomes the daemon: makes sure that a daemon of the container's sandbox
 * serves, this one or another, and returns what to print. A daemon that serves already is shared by all containers of the
 * sandbox; the launcher comes here only when it did not find one.
 *
 * @throws invalid_argument   ids, bundle or stdin are not what they should be
 */
export async function start(
  { flags, stdin, environment, servesMany }: StartOptions,
  parts: ShimParts,
  serve: Serve,
): Promise<Uint8Array> {
  const namespace = checkId("namespace", flags.namespace);
  const containerId = checkId("container id", flags.id);
  checkAddress(flags.address);
  const bundle = await checkBundle(flags.bundle);
  const bootstrap = readBootstrap(stdin, containerId, namespace);
  const sandboxId = await groupOf(bundle, containerId);
  const { stateDirectory } = await parts.loadConfig([], environment);
  const path = socketPath({
    address: flags.address,
    namespace,
    sandboxId,
    stateDirectory,
    socketDirectory: bootstrap.socketDirectory,
  });
  await makeSocketDirectory(dirname(path));
  await makeSocketDirectory(join(stateDirectory, ".shims"));

  const caller = { containerId, bundle, isCurrent: bootstrap.isCurrent };
  for (let attempt = 0; attempt < maxAttempts; attempt++) {
    const answer = await attach(path, caller);
    if (answer !== undefined) return answer;
    const isServing = await serve({
      namespace,
      sandboxId,
      containerId,
      bundle,
      isSandbox: isSandboxBundle(bundle),
      socketPath: path,
      ttrpcAddress: eventAddress(flags, bootstrap, environment),
      debug: flags.debug || bootstrap.debug,
      options: bootstrap.options,
    });
    if (!isServing) continue;
    return noteContainer({ stateDirectory, namespace, sandboxId, socketPath: path, servesMany }, caller);
  }
  throw new RuntimeError(
    "unavailable",
    `Cannot start sandbox "${sandboxId}": its daemon ends or changes all the time`,
  );
}

/** Joins the daemon that serves at `path`; undefined when none does. Waits for an ending one. */
async function attach(path: string, caller: StartCaller): Promise<Uint8Array | undefined> {
  if (await lstat(path).then(() => false, isNobodyThere)) return undefined;
  const { connectShim } = await import("./shim-client.ts");
  try {
    await using shim = await connectShim(path);
    return await shim.attach(caller, endingTimeoutMs);
  } catch (error) {
    if (isNobodyThere(error)) return undefined;
    throw error;
  }
}

/** Without containerd (our own command line) nobody takes events. */
function eventAddress(flags: Flags, bootstrap: Bootstrap, environment: Environment): string {
  if (flags.address === "") return "";
  const address = bootstrap.ttrpcAddress || environment["TTRPC_ADDRESS"] || "";
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
