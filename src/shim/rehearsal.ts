import { join } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { abortable, scope } from "../base/scope.ts";
import type { Config } from "../config/config.ts";
import { openInput } from "../sandbox/fifo.ts";
import type { ReadyVm } from "../sandbox/ready-vm.ts";
import { TtrpcClient } from "../ttrpc/client.ts";
import type { DaemonProcess } from "./daemon-process.ts";
import { DaemonMetrics } from "./metrics.ts";
import type { ShimParts } from "./parts.ts";
import { ReadyLog } from "./ready-log.ts";
import { assembleSandbox } from "./served-sandbox.ts";
import { taskMethods, taskServiceNames } from "./task-api.ts";

const rehearsalTimeoutMs = 60_000;
const connectTimeoutMs = 5_000;

/**
 * Serves a sandbox with one container in a VM that waits, as for a caller, and ends it: what a start runs in the guest and in this
 * process is read and compiled then, and translated where the CPU is emulated. The VM goes on waiting. On failure nothing is left
 * of it but what the VM has.
 */
export async function rehearse(
  ready: Pick<ReadyVm, "planRehearsal">,
  { parts, config, signal }: { parts: ShimParts; config: Config; signal: AbortSignal },
): Promise<void> {
  const { namespace, sandboxId, containerId, bundle, stdio, source, returned } = ready.planRehearsal();
  using limit = scope(signal, rehearsalTimeoutMs, "the rehearsal of a start");
  try {
    await source.claim();
    const socketPath = join(bundle, "socket");
    const vm = { sourceFor: () => source, [Symbol.asyncDispose]: async () => {} };
    const served = await assembleSandbox(
      {
        namespace,
        sandboxId,
        containerId,
        bundle,
        isSandbox: false,
        socketPath,
        ttrpcAddress: "",
        debug: false,
        options: undefined,
      },
      {
        parts,
        daemon: stage,
        environment: process.env,
        ready: { ready: vm, metrics: new DaemonMetrics(), log: new ReadyLog() },
        originMs: source.originMs,
      },
    );
    try {
      await served.server.listen(socketPath);
      served.prepare();
      await runContainer(socketPath, { id: containerId, bundle, stdio }, limit.signal);
    } finally {
      served.end();
      // Not its `ended`, which does not wait for a close that takes long.
      await served.released;
    }
    await abortable(returned, limit.signal);
  } finally {
    await parts.removeSandbox({ stateDirectory: config.stateDirectory, namespace, sandboxId });
  }
}

/** Nothing of this process is changed. */
const stage: DaemonProcess = {
  servesMany: false,
  sandboxCount: 1,
  waitForEarlier: async () => {},
  adopt: () => {},
  takePlace: async () => {},
};

interface Play {
  readonly id: string;
  readonly bundle: string;
  readonly stdio: { readonly stdin: string; readonly stdout: string; readonly stderr: string };
}

/** What containerd calls for a container that runs and ends. */
async function runContainer(
  socketPath: string,
  { id, bundle, stdio }: Play,
  signal: AbortSignal,
): Promise<void> {
  using outputs = new DisposableStack();
  for (const path of [stdio.stdout, stdio.stderr]) {
    const output = openInput(path);
    outputs.defer(() => output.close());
    output.stream.resume();
  }
  await using client = await TtrpcClient.connect(socketPath, { timeoutMs: connectTimeoutMs });
  const [, service] = taskServiceNames;
  const task = { id, execId: "" };
  await client.call(service, taskMethods.create, { id, bundle, ...stdio }, { signal });
  const ended = client.call(service, taskMethods.wait, task, { signal });
  ended.catch(() => {});
  await client.call(service, taskMethods.start, task, { signal });
  const { exitStatus } = await ended;
  await client.call(service, taskMethods.state, task, { signal });
  await client.call(service, taskMethods.delete, task, { signal });
  await client.call(service, taskMethods.shutdown, { id }, { signal });
  if (exitStatus !== 0)
    throw new RuntimeError("internal", `The program of a rehearsal ended with ${exitStatus}`);
}
