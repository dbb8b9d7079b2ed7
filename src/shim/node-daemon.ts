import { createServer, type Server } from "node:net";
import { errnoOf, RuntimeError } from "../base/errors.ts";
import { removeFile } from "../base/files.ts";
import { within } from "../base/scope.ts";
import { receiveStart, serveStart, type StartCall } from "./daemon.ts";
import { type DaemonProcess, keepAlive, shimCgroupOf, takePlace } from "./daemon-process.ts";
import { readBootstrap } from "./bootstrap.ts";
import type { Flags } from "./flags.ts";
import { Handshake } from "./handshake.ts";
import { callOf, decline, describeProgram, isFromSameHost, receiveOffer } from "./offer.ts";
import type { ShimParts } from "./parts.ts";
import type { SandboxRequest, ServedSandbox } from "./served-sandbox.ts";

/** Longest wait for the end of a sandbox that a new one has the id of. */
const earlierTimeoutMs = 10_000;
/** Only the owner. */
const socketUmask = 0o177;

/**
 * A daemon that serves the sandbox it was spawned for, and those of every other start of its kind that comes as long as it has one
 * (launcher/src/node.rs says which kind that is). Nothing of one sandbox is another's, but this process and its end.
 */
export async function runNodeDaemon(flags: Flags, parts: ShimParts): Promise<void> {
  const { call, nodeSocket } = await receiveStart(flags);
  const daemon = new NodeDaemon(parts, flags.namespace);
  if (nodeSocket !== undefined && !wantsOwnProcess(call)) await daemon.listen(nodeSocket);
  await daemon.serve(call);
}

class NodeDaemon implements DaemonProcess {
  readonly #parts: ShimParts;
  readonly #namespace: string;
  readonly #program = describeProgram();
  readonly #sandboxes = new Set<ServedSandbox>();
  #server: Server | undefined;
  /** Starts that are under way. */
  #startCount = 0;
  #isPlaced = false;

  constructor(parts: ShimParts, namespace: string) {
    this.#parts = parts;
    this.#namespace = namespace;
    keepAlive({
      error: (fields: object, text?: string) => {
        for (const { log } of this.#sandboxes) log.error(fields, text);
      },
    });
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      process.on(signal, () => {
        for (const sandbox of this.#sandboxes) sandbox.end();
      });
    }
  }

  get servesMany(): boolean {
    return this.#server !== undefined;
  }

  get sandboxCount(): number {
    return this.#sandboxes.size;
  }

  /** The launcher keeps others from doing so meanwhile. One that cannot listen serves its one sandbox. */
  async listen(path: string): Promise<void> {
    const server = createServer((socket) => {
      socket.on("error", () => {
        // The launcher is gone; its handshake says so.
      });
      void this.#answer(new Handshake(socket))
        .catch(() => socket.destroy())
        .finally(() => this.#endIfIdle());
    });
    // What lies there is left by a daemon that was killed.
    await removeFile(path);
    const umask = process.umask(socketUmask);
    const listening = new Promise<void>((resolve, reject) => {
      server.once("listening", resolve).once("error", reject);
    });
    try {
      server.listen(path);
    } finally {
      process.umask(umask);
    }
    try {
      await listening;
      this.#server = server;
    } catch (error) {
      if (errnoOf(error) === undefined) throw error;
    }
  }

  async serve(call: StartCall): Promise<void> {
    this.#startCount++;
    try {
      await serveStart(call, this.#parts, this);
    } finally {
      this.#startCount--;
      this.#endIfIdle();
    }
  }

  async waitForEarlier(sandboxId: string): Promise<void> {
    const earlier = [...this.#sandboxes].filter(({ id, isEnding }) => id === sandboxId && isEnding);
    const gone = Promise.all(earlier.map(({ released }) => released)).then(() => true);
    if (await within(gone, earlierTimeoutMs, false)) return;
    throw new RuntimeError(
      "unavailable",
      `Cannot start sandbox "${sandboxId}": an earlier one is still ending`,
    );
  }

  adopt(sandbox: ServedSandbox): void {
    this.#sandboxes.add(sandbox);
    void sandbox.released.then(() => {
      this.#sandboxes.delete(sandbox);
      this.#endIfIdle();
    });
  }

  async takePlace(request: SandboxRequest): Promise<void> {
    if (this.#isPlaced) return;
    this.#isPlaced = true;
    await takePlace(request);
    if (this.servesMany) process.title = `containerd-shim-caisson-v2 -namespace ${this.#namespace} -node`;
  }

  async #answer(handshake: Handshake): Promise<void> {
    this.#startCount++;
    try {
      const received = await receiveOffer(handshake);
      const call = received && callOf(handshake, received);
      const isOurs =
        received !== undefined &&
        isFromSameHost(received.offer) &&
        describeProgram() === this.#program &&
        received.flags.namespace === this.#namespace;
      if (call === undefined || !isOurs || wantsOwnProcess(call)) await decline(handshake);
      else await this.serve(call);
    } finally {
      this.#startCount--;
    }
  }

  /** Whoever has connected and was not heard yet finds the connection closed, and starts another daemon. */
  #endIfIdle(): void {
    if (this.#startCount > 0 || this.#sandboxes.size > 0) return;
    // Removes the socket file, before it stops to listen.
    this.#server?.close();
    process.exit(0);
  }
}

/** Whether it puts the process into a place where others would not be. */
function wantsOwnProcess({ flags, stdin }: StartCall): boolean {
  try {
    return shimCgroupOf(readBootstrap(stdin, flags.id, flags.namespace).options) !== "";
  } catch {
    // What cannot be read fails the start, in whichever process.
    return false;
  }
}
