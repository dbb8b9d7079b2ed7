import { Socket } from "node:net";
import { describe } from "../base/errors.ts";
import { loadNative } from "../base/native.ts";
import { bindSocket } from "./bind-socket.ts";
import { type DaemonProcess, keepAlive, processOfOne } from "./daemon-process.ts";
import type { Flags } from "./flags.ts";
import { type DaemonReply, type DaemonRequest, Handshake } from "./handshake.ts";
import type { Environment, ShimParts } from "./parts.ts";
import type { ReadyParts } from "./ready-parts.ts";
import { assembleSandbox, type ServedSandbox } from "./served-sandbox.ts";
import { type Serve, start } from "./start.ts";
import { trimOnceSettled } from "./trim.ts";

const handshakeFd = 3;

/** What the launcher says that has spawned us, over fd 3. */
export interface SpawnedStart {
  readonly call: StartCall;
  /** Where to listen for the starts of other sandboxes. */
  readonly nodeSocket: string | undefined;
}

/** A `start`, and the launcher that waits for its answer. */
export interface StartCall {
  readonly handshake: Handshake;
  readonly flags: Flags;
  readonly stdin: Uint8Array;
  /** Of the launcher. */
  readonly environment: Environment;
  /** When it came in, on the clock of `performance.now()`; 0: with the process. */
  readonly originMs: number;
}

/**
 * The daemon of one sandbox: does what `start` was called for, which the launcher tells it over fd 3, and serves the task API
 * until its last container is gone and it is told to end. When another daemon serves the sandbox, it says so and ends.
 */
export async function runDaemon(flags: Flags, parts: ShimParts): Promise<void> {
  const { call } = await receiveStart(flags);
  const one = processOfOne();
  const daemon = {
    ...one,
    adopt: (sandbox: ServedSandbox) => {
      keepAlive(sandbox.log);
      one.adopt(sandbox);
    },
  };
  if (!(await serveStart(call, parts, daemon))) process.exit(1);
}

/** The `start` that this process was spawned for. Ends the process when the launcher is gone. */
export async function receiveStart(flags: Flags): Promise<SpawnedStart> {
  const handshake = new Handshake(new Socket({ fd: handshakeFd }));
  const request = await handshake.receive<DaemonRequest>();
  if (request === undefined) process.exit(1);
  // What containerd or a user's shell left open in us is not for the VM and its helpers.
  loadNative().closeOnExecFrom(handshakeFd);
  const stdin = Buffer.from(request.stdin, "hex");
  return {
    call: { handshake, flags, stdin, environment: process.env, originMs: 0 },
    nodeSocket: request.nodeSocket ?? undefined,
  };
}

/**
 * Does what `start` was called for, and tells the launcher. True: this process serves the sandbox, and the launcher knows it. False:
 * another one does, or it failed; nothing is left of it here.
 */
export async function serveStart(
  { handshake, flags, stdin, environment, originMs }: StartCall,
  parts: ShimParts,
  daemon: DaemonProcess,
  ready?: ReadyParts,
): Promise<boolean> {
  let sandbox: ServedSandbox | undefined;
  let isServing = false;
  const serve: Serve = async (request) => {
    if (sandbox === undefined) {
      await daemon.waitForEarlier(request.sandboxId);
      sandbox = await assembleSandbox(request, { parts, daemon, environment, ready, originMs });
      daemon.adopt(sandbox);
    }
    isServing = await bindSocket(sandbox.server, request.socketPath);
    if (!isServing) return false;
    await sandbox.claim();
    await daemon.takePlace(request);
    sandbox.prepare();
    return true;
  };
  try {
    const caller = { flags, stdin, environment, servesMany: daemon.servesMany };
    const answer = await start(caller, parts, serve);
    handshake.send({ tag: "ready", answer: Buffer.from(answer).toString("hex") } satisfies DaemonReply);
    const isKnown = (await handshake.receive()) !== undefined;
    await handshake.end();
    if (isServing && isKnown) {
      sandbox?.openMetrics();
      sandbox?.log.info({ id: flags.id, pid: process.pid }, "daemon serves");
      trimOnceSettled();
      return true;
    }
  } catch (error) {
    handshake.send({ tag: "failed", message: describe(error) } satisfies DaemonReply);
    await handshake.end();
  }
  // With the sandbox ends a VM that was ready for it.
  sandbox?.end();
  await (sandbox?.ended ?? ready?.ready[Symbol.asyncDispose]());
  return false;
}
