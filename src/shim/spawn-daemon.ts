import { spawn } from "node:child_process";
import type { Duplex } from "node:stream";
import { RuntimeError } from "../base/errors.ts";
import { within } from "../base/scope.ts";
import { type DaemonReply, type DaemonRequest, Handshake } from "./handshake.ts";

export interface SpawnedDaemon {
  readonly pid: number;
  /** Lets the daemon live on; without it, it ends with us. */
  release(): Promise<void>;
}

const startTimeoutMs = 20_000;

/** As the launcher runs Node; the inspector must not open on SIGUSR1, and warnings have no reader. */
const nodeFlags = [...new Set([...process.execArgv, "--no-warnings", "--disable-sigusr1"])];

/**
 * Runs this executable again as the daemon, in a session of its own and without our stdio (containerd waits until
 * the last holder of that has closed it), and waits until it serves. Undefined: another daemon was faster.
 *
 * @throws the error that the daemon reports; unavailable when it dies without one
 */
export async function spawnDaemon(
  script: string,
  request: DaemonRequest,
): Promise<SpawnedDaemon | undefined> {
  const child = spawn(
    process.execPath,
    [...nodeFlags, script, "-namespace", request.namespace, "-id", request.sandboxId, "daemon"],
    {
      cwd: "/",
      detached: true,
      env: daemonEnvironment(process.env),
      stdio: ["ignore", "ignore", "ignore", "pipe"],
    },
  );
  const spawned = new Promise<void>((resolve, reject) => {
    child.once("spawn", resolve);
    child.once("error", (cause) =>
      reject(new RuntimeError("unavailable", "Cannot start the daemon", { cause })),
    );
  });
  const exited = new Promise<string>((resolve) => {
    child.once("exit", (code, signal) => resolve(signal ?? `exit code ${code}`));
  });
  await spawned;
  const handshake = new Handshake(child.stdio[3] as Duplex);
  handshake.send(request);
  const reply = await within(handshake.receive<DaemonReply>(), startTimeoutMs, "late" as const);
  if (reply === "late") {
    child.kill("SIGKILL");
    throw new RuntimeError(
      "deadline_exceeded",
      `Cannot start the daemon: it does not serve within ${startTimeoutMs} ms`,
    );
  }
  switch (reply?.tag) {
    case "ready":
      return {
        pid: child.pid ?? 0,
        release: async () => {
          handshake.send({});
          await handshake.end();
          child.unref();
        },
      };
    case "taken":
      await exited;
      return undefined;
    case "failed":
      await exited;
      throw new RuntimeError(reply.code, reply.message);
    case undefined:
      throw new RuntimeError(
        "unavailable",
        `Cannot start the daemon: it ended before it served (${await exited})`,
      );
  }
}

/** containerd's environment without what changes how Node runs. */
function daemonEnvironment(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(environment).filter(([name]) => !name.startsWith("NODE_")));
}
