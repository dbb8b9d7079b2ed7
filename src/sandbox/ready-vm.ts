import type { AgentEvents } from "../agent-client/agent-types.ts";
import { describe } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import type { ProcessIdentity } from "../base/processes.ts";
import type { Config } from "../config/config.ts";
import { configFor } from "../config/annotations.ts";
import type { Hypervisor } from "../hypervisor/hypervisor.ts";
import { removeNetns } from "../network/netns.ts";
import { defaultNamespaces } from "../oci/spec-defaults.ts";
import type { Spec } from "../oci/spec.ts";
import { describeVmFiles } from "./guest-files.ts";
import { createHostState, type HostState, renameHostState } from "./host-state.ts";
import type { SandboxObserver } from "./observer.ts";
import { readyNamespace } from "./paths.ts";
import { planRehearsal, type Rehearsal } from "./rehearsal.ts";
import { removeFilesIn, removeSandbox } from "./remove.ts";
import { sizeOf, thisHost, type VmSize } from "./sizing.ts";
import { Timeline } from "./timeline.ts";
import { bootSandboxVm, type SandboxVm, type VmRequest } from "./vm.ts";
import { coldVms, type VmSource } from "./vm-source.ts";

export interface ReadyVmOptions {
  /** Of nothing else, ever: names the state directory and the owner of the user id. */
  readonly id: string;
  readonly config: Config;
  readonly hypervisor: Hypervisor;
  /** A static executable of ours that says its version, for the rehearsal. */
  readonly program: string;
  readonly log: Log;
  readonly observer: SandboxObserver;
  readonly signal: AbortSignal;
}

/** A VM that was booted for nobody yet, with everything on the host that belongs to it. No code of anybody's has run in it. */
export interface ReadyVm extends AsyncDisposable {
  readonly size: VmSize;
  /** Resolves with a reason when the VM has ended. Never rejects. */
  readonly lost: Promise<string>;
  /** The VMM and its helpers. */
  readonly processes: readonly ProcessIdentity[];
  /** Whether it has the size and the settings that a sandbox for this spec is to have. */
  fits(spec: Spec, config: Config): boolean;
  /** For a start that is rehearsed before there is a sandbox. To be over when somebody takes this VM. */
  planRehearsal(): Rehearsal;
  /** For a sandbox, whose first boot takes this VM. One that does not suit in the end is thrown away for another. */
  sourceFor(sandbox: SandboxName): ReadyVmSource;
}

export interface ReadyVmSource extends VmSource {
  /**
   * Makes what the VM has on the host that of the sandbox, in whose name it is found from then on. To be called as soon as the
   * sandbox is this process's to serve, because what an earlier one of the name left is removed. Done once.
   */
  claim(): Promise<HostState>;
}

type SandboxName = Pick<VmRequest, "namespace" | "sandboxId">;

/** Boots one. On failure nothing is left. */
export async function bootReadyVm(options: ReadyVmOptions): Promise<ReadyVm> {
  const { id, config, hypervisor, log, observer, signal } = options;
  const name = { stateDirectory: config.stateDirectory, namespace: readyNamespace, sandboxId: id };
  const events = new EventRelay();
  const host = await createHostState(readyNamespace, id, config);
  try {
    const vm = await bootSandboxVm({
      namespace: readyNamespace,
      sandboxId: id,
      host,
      config,
      hypervisor,
      spec: nobodysSpec,
      blockDevices: [],
      events,
      log,
      timeline: new Timeline(),
      observer,
      signal,
    });
    return new OwnedVm(options, host, vm, events);
  } catch (error) {
    host.shared[Symbol.dispose]();
    host.journal[Symbol.dispose]();
    await removeSandbox(name);
    throw error;
  }
}

/** A network namespace of its own, whose one link comes later, and no cgroup. */
export const nobodysSpec: Spec = {
  ociVersion: "1.0.2",
  hostname: "localhost",
  linux: { namespaces: defaultNamespaces.map((type) => ({ type })) },
} as unknown as Spec;

class OwnedVm implements ReadyVm {
  readonly #options: ReadyVmOptions;
  readonly #vm: SandboxVm;
  readonly #events: EventRelay;
  readonly #files: string;
  #host: HostState;
  /** Whose state directory it is. */
  #owner: SandboxName;
  #isHostTaken = false;
  #isVmTaken = false;

  constructor(options: ReadyVmOptions, host: HostState, vm: SandboxVm, events: EventRelay) {
    this.#options = options;
    this.#host = host;
    this.#vm = vm;
    this.#events = events;
    this.#files = describeVmFiles(options.config);
    this.#owner = { namespace: readyNamespace, sandboxId: options.id };
  }

  get size(): VmSize {
    return this.#vm.growth.size;
  }

  get lost(): Promise<string> {
    return this.#vm.lost;
  }

  get processes(): readonly ProcessIdentity[] {
    return this.#vm.processes();
  }

  fits(spec: Spec, config: Config): boolean {
    const wanted = configFor(spec.annotations, config);
    const size = sizeOf(spec, wanted, thisHost());
    return (
      JSON.stringify(wanted) === JSON.stringify(this.#options.config) &&
      size.vcpus === this.size.vcpus &&
      size.memoryMiB === this.size.memoryMiB &&
      describeVmFiles(wanted) === this.#files
    );
  }

  planRehearsal(): Rehearsal {
    const { id, config, program } = this.#options;
    const deliverTo = (events: AgentEvents) => this.#events.deliverTo(events);
    return planRehearsal({ id, config, program, vm: this.#vm, host: this.#host, deliverTo });
  }

  sourceFor(sandbox: SandboxName): ReadyVmSource {
    let claimed: Promise<HostState> | undefined;
    const claim = () => (claimed ??= this.#renameTo(sandbox));
    return {
      originMs: performance.now(),
      claim,
      createHost: async (...args) => {
        if (this.#isHostTaken) return coldVms.createHost(...args);
        this.#isHostTaken = true;
        return claim();
      },
      boot: async (request) => {
        const isOurs = !this.#isVmTaken && request.host === this.#host;
        this.#isVmTaken = true;
        return (isOurs ? await this.#become(request) : undefined) ?? coldVms.boot(request);
      },
    };
  }

  async #renameTo(sandbox: SandboxName): Promise<HostState> {
    this.#host = await renameHostState(this.#host, { ...sandbox, config: this.#options.config });
    this.#owner = sandbox;
    return this.#host;
  }

  /** Undefined: this VM will not do for the sandbox, and is gone. */
  async #become(request: VmRequest): Promise<SandboxVm | undefined> {
    const { log, timeline } = request;
    const fact = "the VM of the pool does not suit: another one is booted";
    try {
      if (this.#suits(request)) {
        this.#events.deliverTo(request.events);
        await timeline.measure("VM of the pool", () => this.#vm.become(request));
        return this.#vm;
      }
      log.info(fact);
    } catch (error) {
      log.info({ error: describe(error) }, fact);
    }
    await timeline.measure("end of the VM of the pool", () => this.#giveUp());
    request.signal.throwIfAborted();
    return undefined;
  }

  /** A microvm takes disks when it boots. */
  #suits({ blockDevices, rootImage, spec, config }: VmRequest): boolean {
    return blockDevices.length === 0 && rootImage === undefined && this.fits(spec, config);
  }

  /** Removes the VM and leaves the host state as it was before the boot. */
  async #giveUp(): Promise<void> {
    await this.#vm[Symbol.asyncDispose]();
    const { paths } = this.#host;
    await removeNetns(paths.netns);
    await removeFilesIn(paths.vm);
  }

  /** Ends what no sandbox has taken. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#isVmTaken) await this.#vm[Symbol.asyncDispose]();
    this.#isVmTaken = true;
    if (this.#isHostTaken) return;
    this.#isHostTaken = true;
    this.#host.shared[Symbol.dispose]();
    this.#host.journal[Symbol.dispose]();
    await removeSandbox({ stateDirectory: this.#options.config.stateDirectory, ...this.#owner });
  }
}

/** Events of the agent, for whoever has the VM. */
class EventRelay implements AgentEvents {
  #target: AgentEvents | undefined;

  deliverTo(target: AgentEvents): void {
    this.#target = target;
  }

  onExit(exit: Parameters<AgentEvents["onExit"]>[0]): void {
    this.#target?.onExit(exit);
  }

  onOomKill(containerId: string): void {
    this.#target?.onOomKill(containerId);
  }

  onNotification(containerId: string, text: string): void {
    this.#target?.onNotification(containerId, text);
  }
}
