import { copyFile, mkdir, writeFile } from "node:fs/promises";
import { isAbsolute, join } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { systemErrorCode } from "../base/files.ts";
import type { SpecMount } from "../oci/spec.ts";
import type { ExitStatus, Sandbox } from "../sandbox/model.ts";
import { type PodPlan, planPod, type PodRequest } from "./pod-spec.ts";

export type PodState =
  | { readonly tag: "none" }
  | { readonly tag: "created"; readonly plan: PodPlan; readonly mounts: readonly SpecMount[] }
  | { readonly tag: "starting" }
  | { readonly tag: "ready"; readonly createdAt: Date }
  | { readonly tag: "ended"; readonly createdAt: Date; readonly exit: ExitStatus };

/** A sandbox of the Sandbox API: a VM without a pause container. Made, started and stopped once. */
export class Pod {
  readonly #sandbox: Sandbox;
  readonly #end = Promise.withResolvers<ExitStatus>();
  #state: PodState = { tag: "none" };

  constructor(sandbox: Sandbox) {
    this.#sandbox = sandbox;
  }

  get state(): PodState {
    return this.#state;
  }

  /** Resolves when it has ended, however that came. */
  get ended(): Promise<ExitStatus> {
    return this.#end.promise;
  }

  /**
   * Takes the pod's configuration, and makes in the bundle the files that containers find in their /etc.
   *
   * @throws already_exists, invalid_argument, failed_precondition
   */
  async create(bundle: string, request: PodRequest): Promise<void> {
    if (this.#state.tag !== "none") {
      throw new RuntimeError("already_exists", `Cannot create sandbox "${request.sandboxId}": it exists`);
    }
    const plan = planPod(request);
    this.#state = { tag: "created", plan, mounts: await makeFiles(bundle, plan) };
  }

  /** Boots the VM. @throws failed_precondition unless it was created, and what the boot throws */
  async start(signal: AbortSignal): Promise<Date> {
    if (this.#state.tag !== "created") throw this.#wrongState("start");
    const { plan, mounts } = this.#state;
    this.#state = { tag: "starting" };
    const createdAt = new Date();
    try {
      const { ended } = await this.#sandbox.boot({ spec: plan.spec, mounts }, { signal });
      this.#state = { tag: "ready", createdAt };
      void ended.then((exit) => this.#onEnd(createdAt, exit));
      return createdAt;
    } catch (error) {
      this.#onEnd(createdAt, { exitCode: 255, exitedAt: new Date() });
      throw error;
    }
  }

  /** Ends the VM; one that was never started counts as ended too. */
  async stop(): Promise<void> {
    await this.#sandbox.close();
    const { tag } = this.#state;
    if (tag === "none" || tag === "created") this.#onEnd(new Date(), { exitCode: 0, exitedAt: new Date() });
  }

  #onEnd(createdAt: Date, exit: ExitStatus): void {
    this.#state = { tag: "ended", createdAt, exit };
    this.#end.resolve(exit);
  }

  #wrongState(action: string): RuntimeError {
    return new RuntimeError(
      "failed_precondition",
      `Cannot ${action} sandbox "${this.#sandbox.id}": its state is "${this.#state.tag}"`,
    );
  }
}

/** With a pause container these files come from CRI. */
async function makeFiles(bundle: string, { hostname, resolvConf }: PodPlan): Promise<SpecMount[]> {
  if (!isAbsolute(bundle) || bundle.includes("\0")) {
    throw new RuntimeError(
      "invalid_argument",
      `Cannot use bundle ${JSON.stringify(bundle)}: expected an absolute path`,
    );
  }
  const directory = join(bundle, "etc");
  const path = (name: string) => join(directory, name);
  try {
    await mkdir(directory, { mode: 0o755 });
    await writeFile(path("hostname"), `${hostname}\n`, { mode: 0o644 });
    await copyFile("/etc/hosts", path("hosts"));
    if (resolvConf === "") await copyFile("/etc/resolv.conf", path("resolv.conf"));
    else await writeFile(path("resolv.conf"), resolvConf, { mode: 0o644 });
  } catch (cause) {
    throw new RuntimeError(systemErrorCode(cause), `Cannot make the pod's files in "${directory}"`, {
      cause,
    });
  }
  return ["hostname", "hosts", "resolv.conf"].map((name) => ({
    destination: `/etc/${name}`,
    type: "bind",
    source: path(name),
    options: ["rbind", "rprivate", "rw"],
  }));
}
