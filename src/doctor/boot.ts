import { describe } from "../base/errors.ts";
import { keepAlive } from "../base/keep-alive.ts";
import type { Log } from "../base/log.ts";
import type { Config } from "../config/config.ts";
import { createDriver } from "../hypervisor/drivers.ts";
import type { Spec } from "../oci/spec.ts";
import { createHostState } from "../sandbox/host-state.ts";
import { removeSandbox } from "../sandbox/remove.ts";
import { type Phase, Timeline } from "../sandbox/timeline.ts";
import { bootSandboxVm } from "../sandbox/vm.ts";
import { error, type Finding, ok } from "./finding.ts";

const name = "boot";
const namespace = "caisson-doctor";

export interface BootReport {
  readonly finding: Finding;
  readonly phases: readonly Phase[];
}

/**
 * Boots a VM as a sandbox does, with everything but a container: kernel, image, agent, vsock, shared directory, a network of
 * its own. Nothing of it is left.
 */
export async function tryBoot(config: Config, log: Log, signal: AbortSignal): Promise<BootReport> {
  const sandboxId = `doctor-${process.pid}`;
  const timeline = new Timeline();
  const begin = performance.now();
  try {
    await keepAlive(bootOnce({ config, log, signal, sandboxId, timeline }));
    const seconds = ((performance.now() - begin) / 1000).toFixed(1);
    return { finding: ok(name, `a VM booted, answered and ended in ${seconds} s`), phases: timeline.phases };
  } catch (cause) {
    const finding = error(name, {
      finding: describe(cause),
      why: "no sandbox starts",
      remedy: "mend what is wrong above; else set debug_guest = true and look at the guest's console",
    });
    return { finding, phases: timeline.phases };
  }
}

interface Boot {
  readonly config: Config;
  readonly log: Log;
  readonly signal: AbortSignal;
  readonly sandboxId: string;
  readonly timeline: Timeline;
}

async function bootOnce({ config, log, signal, sandboxId, timeline }: Boot): Promise<void> {
  const hypervisor = await createDriver(config, (text) => log.warn(text));
  const host = await createHostState(namespace, sandboxId, config);
  try {
    const spec: Spec = {
      ociVersion: "1.0.0",
      root: { path: "rootfs" },
      linux: { namespaces: [{ type: "network" }] },
    };
    await using vm = await bootSandboxVm({
      namespace,
      sandboxId,
      host,
      config,
      hypervisor,
      spec,
      blockDevices: [],
      events: { onExit: () => {}, onOomKill: () => {}, onNotification: () => {} },
      log,
      timeline,
      observer: undefined,
      signal,
    });
    await vm.agent.ping(signal);
  } finally {
    host.journal[Symbol.dispose]();
    await removeSandbox({ stateDirectory: config.stateDirectory, namespace, sandboxId });
  }
}
