import { spawn } from "node:child_process";
import { ignoreCode, RuntimeError } from "../base/errors.ts";
import { minimalEnvironment } from "../base/exec.ts";
import { checkId } from "../base/ids.ts";
import { abortable } from "../base/scope.ts";
import type { Sandbox } from "../sandbox/model.ts";
import type { Handlers } from "../ttrpc/method.ts";
import type { Life } from "./life.ts";
import type { StartCaller } from "./note.ts";
import type { Environment } from "./parts.ts";
import type { shimMethods } from "./shim-api.ts";

const sigkill = 9;

/** It has the configuration of the sandbox, and a session of its own. */
function runDetached([file, ...args]: readonly string[], environment: Environment): void {
  if (file === undefined) return;
  const { CAISSON_CONFIG = "" } = environment;
  const env = { ...minimalEnvironment, CAISSON_CONFIG };
  const child = spawn(file, args, { cwd: "/", env, stdio: "ignore", detached: true });
  child.on("error", () => {
    // What it would have removed is there for a delete.
  });
  child.unref();
}

export interface ShimServiceOptions {
  readonly life: Life;
  readonly sandbox: Sandbox;
  /** Notes who serves a container. */
  readonly note: (caller: StartCaller) => Promise<Uint8Array>;
  /** Of the `start` of the sandbox. */
  readonly environment: Environment;
}

/** What our own programs ask of the daemon besides the task API. */
export function shimService({
  life,
  sandbox,
  note,
  environment,
}: ShimServiceOptions): Handlers<typeof shimMethods> {
  return {
    async attach({ containerId, bundle, isCurrent }) {
      life.announce(checkId("container id", containerId));
      try {
        return { answer: await note({ containerId, bundle, isCurrent }) };
      } catch (error) {
        life.release(containerId);
        throw error;
      }
    },

    async remove(request) {
      return { remaining: await life.remove(checkId("container id", request.containerId)) };
    },

    async notifications({ containerId }, { signal }) {
      const container = sandbox.container(checkId("container id", containerId));
      const over = new AbortController();
      const end = (reason: unknown) => over.abort(reason);
      void container.init.wait().then(() => end(new RuntimeError("unavailable", "The container has ended")));
      signal.addEventListener("abort", () => end(signal.reason), { once: true });
      return { texts: await container.notifications.take(over.signal) };
    },

    async showProcesses({ containerId }) {
      const container = sandbox.container(checkId("container id", containerId));
      const { processes, bootTimeUnixSeconds } = await container.showProcesses();
      return { processes: [...processes], bootTimeUnixSeconds };
    },

    async hold({ containerId, execId, standInPid, commandAtLoss }, { signal }) {
      const process = sandbox.container(checkId("container id", containerId)).process(execId);
      // The namespaces that containers can share are those of the one that the sandbox was made for.
      const isSandboxes = containerId === sandbox.id && standInPid > 0;
      if (isSandboxes) sandbox.standIns.add(standInPid);
      try {
        await abortable(process.wait(), signal);
      } catch {
        // Whoever stood for it on the host is gone. One that has ended meanwhile, or was never started, needs nothing.
        await process.kill(sigkill, execId === "").catch(ignoreCode("not_found", "failed_precondition"));
        runDetached(commandAtLoss, environment);
      } finally {
        if (isSandboxes) sandbox.standIns.delete(standInPid);
      }
      return {};
    },
  };
}
