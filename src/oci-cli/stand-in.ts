/**
 * The process whose pid callers know of a container (native/src/bin/caisson-stand-in.rs): it is in the container's network,
 * sees the container's files, passes signals to the proxy over a socket, and ends as the proxy says.
 */
import { spawn } from "node:child_process";
import { Socket } from "node:net";
import { resolve } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { minimalEnvironment } from "../base/exec.ts";
import { identify, type ProcessIdentity } from "../base/processes.ts";
import { isBind } from "../agent-client/guest-mounts.ts";
import type { Bundle } from "./bundle.ts";
import type { Host } from "./host.ts";

/** What a stand-in shows of a container. */
export interface View {
  readonly netnsPath: string;
  /** The root file system first. */
  readonly mounts: readonly ViewMount[];
}

interface ViewMount {
  readonly destination: string;
  /** Of the host; of no meaning when hidden. */
  readonly source: string;
  /** Hidden: only the guest has it, and what would be written below it would never get there. */
  readonly mode: "rw" | "ro" | "hidden";
}

/** Longer command lines are cut where processes are listed. */
const maxShownLength = 4096;

export function viewOf({ path, rootfs, spec }: Bundle, netnsPath: string): View {
  const root: ViewMount = { destination: "/", source: rootfs, mode: spec.root.readonly ? "ro" : "rw" };
  const mounts = (spec.mounts ?? []).map((mount): ViewMount => {
    const { destination, source = "", options = [] } = mount;
    if (!isBind(mount)) return { destination, source: "", mode: "hidden" };
    const isReadOnly = options.some((option) => option === "ro" || option === "rro");
    return { destination, source: resolve(path, source), mode: isReadOnly ? "ro" : "rw" };
  });
  return { netnsPath, mounts: [root, ...mounts] };
}

/** A stand-in that has not been told anything yet. It ends when the last holder of the socket has closed it. */
export interface SpawnedStandIn extends Disposable {
  readonly identity: ProcessIdentity;
  /** The other side of it, to be inherited by the proxy; ours is closed when disposed. */
  readonly socket: Socket;
}

/** In a session of its own; `words` are shown where processes are listed. */
export function spawnStandIn({ standInPath }: Host, words: readonly string[]): SpawnedStandIn {
  const shown = words.join(" ").slice(0, maxShownLength).replaceAll("\0", "");
  const child = spawn(standInPath, ["--", shown], {
    cwd: "/",
    env: minimalEnvironment,
    stdio: ["ignore", "ignore", "ignore", "pipe"],
    detached: true,
  });
  child.on("error", () => {
    // Its end of the socket is closed; the proxy says so.
  });
  child.unref();
  const socket = child.stdio[3] as Socket;
  return {
    identity: identify(child.pid ?? 0) ?? { pid: child.pid ?? 0, startTicks: "" },
    socket,
    [Symbol.dispose]: () => void socket.destroy(),
  };
}

/** The proxy's side of its stand-in. */
export class StandIn {
  readonly #socket: Socket;
  #onSignal: ((signal: number) => void) | undefined;

  /** `onEnd`: somebody has killed it. */
  constructor(fd: number, onEnd: () => void) {
    this.#socket = new Socket({ fd });
    this.#socket.on("error", () => {
      // The close that follows says it.
    });
    this.#socket.once("close", onEnd);
  }

  /** Lets it enter the container. @throws internal */
  async enter({ netnsPath, mounts }: View): Promise<void> {
    const words = [
      netnsPath,
      ...mounts.flatMap(({ destination, source, mode }) => [destination, source, mode]),
    ];
    const request = Buffer.from(words.map((word) => `${word}\0`).join(""));
    const head = Buffer.alloc(4);
    head.writeUInt32BE(request.length);
    this.#socket.write(Buffer.concat([head, request]));
    const answer = await new Promise<Buffer>((received) => {
      this.#socket.once("data", received);
      this.#socket.once("close", () => received(Buffer.from("it has ended")));
    });
    if (answer[0] !== 0)
      throw new RuntimeError("internal", `Cannot show the container on the host: ${answer.toString("utf8")}`);
    this.#socket.on("data", (signals: Buffer) => {
      for (const signal of signals) this.#onSignal?.(signal);
    });
  }

  /** From now on; signals that came before are lost on nobody, as nobody knew the pid. */
  forwardTo(deliver: (signal: number) => void): void {
    this.#onSignal = deliver;
  }

  /** Ends it as the process has ended. */
  async end(exitCode: number): Promise<void> {
    this.#socket.removeAllListeners("close");
    await new Promise<void>((closed) => {
      this.#socket.once("close", () => closed());
      this.#socket.write(Buffer.of(exitCode));
    });
  }
}
