/**
 * The process whose pid callers know of a container (native/src/bin/caisson-stand-in): it is in the container's network,
 * sees the container's files, shows its processes, passes signals to the proxy over a socket, and ends as the proxy says.
 */
import { spawn } from "node:child_process";
import { constants } from "node:os";
import { Socket } from "node:net";
import { resolve } from "node:path";
import type { Readable } from "node:stream";
import { text } from "node:stream/consumers";
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
  /**
   * Hidden: only the guest has it, and what would be written below it would never get there. The guest's /proc shows the
   * container's processes.
   */
  readonly mode: "rw" | "ro" | "hidden" | "proc";
}

/** A file below /proc: `stat`, or one of a process, `1/stat`. */
export interface ShownFile {
  readonly name: string;
  readonly content: string | Uint8Array;
}

/** Said by the stand-in; no signal has this number. */
const processesWanted = 0;
const endByte = "e".charCodeAt(0);

/** Longer command lines are cut where processes are listed. */
const maxShownLength = 4096;

export function viewOf({ path, rootfs, spec }: Bundle, netnsPath: string): View {
  const root: ViewMount = { destination: "/", source: rootfs, mode: spec.root.readonly ? "ro" : "rw" };
  const mounts = (spec.mounts ?? []).map((mount): ViewMount => {
    const { destination, type, source = "", options = [] } = mount;
    if (!isBind(mount)) return { destination, source: "", mode: type === "proc" ? "proc" : "hidden" };
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

/** In a session of its own; `words` are shown where processes are listed. @throws internal  it does not start */
export async function spawnStandIn({ standInPath }: Host, words: readonly string[]): Promise<SpawnedStandIn> {
  const shown = words.join(" ").slice(0, maxShownLength).replaceAll("\0", "");
  const child = spawn(standInPath, ["--", shown], {
    cwd: "/",
    env: minimalEnvironment,
    stdio: ["ignore", "pipe", "ignore", "pipe"],
  });
  const failed = new Promise<string>((resolve) => child.once("error", () => resolve("")));
  child.unref();
  const socket = child.stdio[3] as Socket;
  const pid = Number(await Promise.race([text(child.stdio[1] as Readable), failed]));
  const identity = pid > 0 ? identify(pid) : undefined;
  if (identity !== undefined) return { identity, socket, [Symbol.dispose]: () => void socket.destroy() };
  socket.destroy();
  throw new RuntimeError("internal", `Cannot start "${standInPath}", which stands for the container`);
}

/** The proxy's side of its stand-in. */
export class StandIn {
  readonly #pid: number;
  readonly #socket: Socket;
  #onSignal: ((signal: number) => void) | undefined;
  #onProcessesWanted: (() => void) | undefined;

  /** `onEnd`: somebody has killed it. */
  constructor(pid: number, fd: number, onEnd: () => void) {
    this.#pid = pid;
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
    this.#send(Buffer.from(words.map((word) => `${word}\0`).join("")));
    const answer = await new Promise<Buffer>((received) => {
      this.#socket.once("data", received);
      this.#socket.once("close", () => received(Buffer.from("it has ended")));
    });
    if (answer[0] !== 0)
      throw new RuntimeError("internal", `Cannot show the container on the host: ${answer.toString("utf8")}`);
    this.#socket.on("data", (signals: Buffer) => {
      for (const signal of signals) {
        if (signal === processesWanted) this.#onProcessesWanted?.();
        else this.#onSignal?.(signal);
      }
    });
  }

  /** From now on; signals that came before are lost on nobody, as nobody knew the pid. */
  forwardTo(deliver: (signal: number) => void): void {
    this.#onSignal = deliver;
  }

  /** `list` is asked for the container's processes whenever somebody on the host looks for them. */
  showProcesses(list: () => Promise<readonly ShownFile[]>): void {
    this.#onProcessesWanted = () => {
      // Whoever looks sees none of a guest that does not answer.
      const listed = list().catch(() => []);
      void listed.then((files) => {
        this.#send(Buffer.concat([Buffer.from("p"), ...files.map(encodeFile)]));
      });
    };
  }

  /** Ends it as the process has ended. */
  async end(exitCode: number): Promise<void> {
    this.#socket.removeAllListeners("close");
    await new Promise<void>((closed) => {
      this.#socket.once("close", () => closed());
      // Process 1 of a PID namespace cannot end itself by a signal; another one cannot end it by any but this one.
      if (exitCode === 128 + constants.signals.SIGKILL) process.kill(this.#pid, "SIGKILL");
      else this.#send(Buffer.from([endByte, exitCode]));
    });
  }

  #send(frame: Buffer): void {
    this.#socket.write(Buffer.concat([lengthOf(frame), frame]));
  }
}

function encodeFile({ name, content }: ShownFile): Buffer {
  const bytes = typeof content === "string" ? Buffer.from(content) : Buffer.from(content);
  return Buffer.concat([Buffer.from(`${name}\0`), lengthOf(bytes), bytes]);
}

function lengthOf(bytes: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return length;
}
