import { arch } from "node:os";
import { RuntimeError } from "../base/errors.ts";
import { abortable } from "../base/scope.ts";
import type { Sandbox } from "../sandbox/model.ts";
import type { Handlers } from "../ttrpc/method.ts";
import { type BoundService, bindService } from "../ttrpc/service.ts";
import { toExit, toTimestamp } from "./convert.ts";
import type { Life } from "./life.ts";
import { Pod } from "./pod.ts";
import { sandboxMethods, sandboxServiceName } from "./sandbox-api.ts";
import { sandboxStats } from "./sandbox-stats.ts";

/** The Sandbox API for the one sandbox of this daemon. */
export function bindSandboxService(sandbox: Sandbox, life: Life): BoundService {
  return bindService(sandboxServiceName, sandboxMethods, sandboxService(sandbox, life));
}

function sandboxService(sandbox: Sandbox, life: Life): Handlers<typeof sandboxMethods> {
  const pod = new Pod(sandbox);
  const check = ({ sandboxId }: { sandboxId: string }) => {
    if (sandboxId === sandbox.id && pod.state.tag !== "none") return;
    throw new RuntimeError("not_found", `Cannot find sandbox ${JSON.stringify(sandboxId.slice(0, 80))}`);
  };

  return {
    async createSandbox({ sandboxId, bundlePath, netnsPath, options, annotations }) {
      if (sandboxId !== sandbox.id) {
        throw new RuntimeError("invalid_argument", `Cannot create "${sandboxId}": this is "${sandbox.id}"`);
      }
      const { type_url: typeUrl, value } = options ?? {};
      await pod.create(bundlePath, {
        sandboxId,
        netnsPath,
        options: typeUrl ? { typeUrl, value: value ?? new Uint8Array() } : undefined,
        annotations: annotations ?? {},
      });
      life.hold(sandboxId);
      return {};
    },

    async startSandbox(request, { signal }) {
      check(request);
      const createdAt = await pod.start(signal);
      return { pid: sandbox.pid, createdAt: toTimestamp(createdAt) };
    },

    platform(request) {
      check(request);
      // Named as Go does.
      return { platform: { os: "linux", architecture: arch() === "x64" ? "amd64" : arch() } };
    },

    async stopSandbox(request) {
      check(request);
      await pod.stop();
      return {};
    },

    async waitSandbox(request, { signal }) {
      check(request);
      return toExit(await abortable(pod.ended, signal));
    },

    sandboxStatus(request) {
      check(request);
      const { state } = pod;
      return {
        sandboxId: sandbox.id,
        pid: sandbox.pid,
        state: state.tag === "ready" ? "SANDBOX_READY" : "SANDBOX_NOTREADY",
        createdAt: "createdAt" in state ? toTimestamp(state.createdAt) : null,
        exitedAt: state.tag === "ended" ? toTimestamp(state.exit.exitedAt) : null,
        info: request.verbose ? { info: JSON.stringify({ state: state.tag, pid: sandbox.pid }) } : {},
      };
    },

    pingSandbox(request) {
      check(request);
      if (pod.state.tag === "ready") return {};
      throw new RuntimeError(
        "unavailable",
        `Cannot reach sandbox "${sandbox.id}": its state is "${pod.state.tag}"`,
      );
    },

    shutdownSandbox() {
      life.end();
      return {};
    },

    async sandboxMetrics(request) {
      check(request);
      const data = await sandboxStats(sandbox);
      return { metrics: { timestamp: toTimestamp(new Date()), id: sandbox.id, data } };
    },
  };
}
