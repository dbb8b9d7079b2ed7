/**
 * OCI hooks of the runtime's namespace: prestart and createRuntime (before the container is created in the guest),
 * poststart and poststop. They run on the host, in the sandbox's network namespace, as root, with the state on stdin and the
 * environment that the configuration gives them, and nothing else.
 *
 * createContainer and startContainer belong to the container's namespace: they go to the guest with the configuration.
 *
 * Source: https://github.com/opencontainers/runtime-spec/blob/main/config.md#posix-platform-hooks
 */
import { spawn } from "node:child_process";
import { basename } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import { foreignText } from "../base/log.ts";
import { TextRing } from "../base/text-ring.ts";
import type { Spec, SpecHook } from "../oci/spec.ts";

/** For hooks without a time limit of their own; a hook that hangs would hang the create for ever. */
const defaultTimeoutSeconds = 60;

/** The state that a hook reads from stdin (runtime.md#state). */
interface HookState {
  readonly ociVersion: string;
  readonly id: string;
  readonly status: "creating" | "created" | "running" | "stopped";
  /** A process of the host in the sandbox's namespaces: the VMM. Left out when there is none any more. */
  readonly pid?: number;
  readonly bundle: string;
  readonly annotations: Readonly<Record<string, string>>;
}

interface HookPlace {
  /** Network namespace to run in. */
  readonly netnsPath: string | undefined;
  readonly signal?: AbortSignal;
}

/** The hooks of one container, bound to where they run. */
export class ContainerHooks {
  readonly #containerId: string;
  readonly #bundle: string;
  readonly #spec: Spec;
  readonly #place: HookPlace;
  readonly #pid: number;

  constructor(
    { containerId, bundle }: { readonly containerId: string; readonly bundle: string },
    spec: Spec,
    vm: { readonly pid: number; readonly netnsPath: string },
  ) {
    this.#containerId = containerId;
    this.#bundle = bundle;
    this.#spec = spec;
    this.#pid = vm.pid;
    this.#place = { netnsPath: vm.netnsPath };
  }

  /** Before the container is created in the guest; a failure is the failure of the create. */
  async beforeCreate(signal: AbortSignal): Promise<void> {
    for (const stage of ["prestart", "createRuntime"] as const) {
      await this.#run(stage, "creating", this.#pid, { ...this.#place, signal });
    }
  }

  /** After the user's process was started. The specification has its failure logged and ignored; the caller does. */
  afterStart(): Promise<void> {
    return this.#run("poststart", "running", this.#pid, this.#place);
  }

  /** After the container was deleted, when the sandbox's network may be gone. Failure: as above. */
  afterDelete(): Promise<void> {
    return this.#run("poststop", "stopped", undefined, { netnsPath: undefined });
  }

  async #run(
    stage: "prestart" | "createRuntime" | "poststart" | "poststop",
    status: HookState["status"],
    pid: number | undefined,
    place: HookPlace,
  ): Promise<void> {
    const hooks = this.#spec.hooks?.[stage] ?? [];
    const state: HookState = {
      ociVersion: this.#spec.ociVersion,
      id: this.#containerId,
      status,
      ...(pid === undefined ? {} : { pid }),
      bundle: this.#bundle,
      annotations: this.#spec.annotations ?? {},
    };
    await runHooks(stage, hooks, state, place);
  }
}

/**
 * Runs hooks one after the other.
 *
 * @throws internal           one failed; the message names it and has its last words. The rest is not run
 * @throws deadline_exceeded  one did not end in its time; it was killed
 */
async function runHooks(
  stage: string,
  hooks: readonly SpecHook[],
  state: HookState,
  place: HookPlace,
): Promise<void> {
  for (const hook of hooks) await runHook(stage, hook, JSON.stringify(state), place);
}

function runHook(stage: string, hook: SpecHook, input: string, place: HookPlace): Promise<void> {
  const timeoutMs = (hook.timeout ?? defaultTimeoutSeconds) * 1000;
  const cannot = (fact: string, cause?: unknown) =>
    new RuntimeError("internal", `Cannot run ${stage} hook "${hook.path}": ${fact}`, { cause });
  return new Promise((resolve, reject) => {
    const [file, args, argv0] = command(hook, place.netnsPath);
    const child = spawn(file, args, {
      argv0,
      cwd: "/",
      env: Object.fromEntries((hook.env ?? []).map(splitVariable)),
      stdio: ["pipe", "pipe", "pipe"],
      // A group of its own, so that what it started ends with it when it is killed.
      detached: true,
    });
    const output = new TextRing(4096);
    for (const stream of [child.stdout, child.stderr])
      stream.on("data", (chunk: Buffer) => output.push(chunk));
    // A hook need not read its stdin.
    child.stdin.on("error", () => {});
    child.stdin.end(input);
    const kill = () => {
      if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
    };
    let failure: RuntimeError | undefined;
    const timer = setTimeout(() => {
      failure = new RuntimeError(
        "deadline_exceeded",
        `Cannot run ${stage} hook "${hook.path}": no end within ${timeoutMs} ms`,
      );
      kill();
    }, timeoutMs);
    place.signal?.addEventListener("abort", kill, { once: true });
    const finish = (settle: () => void) => {
      clearTimeout(timer);
      place.signal?.removeEventListener("abort", kill);
      settle();
    };
    child.once("error", (cause) => finish(() => reject(cannot("it cannot be executed", cause))));
    child.once("exit", (code, signal) => {
      if (code === 0) return finish(resolve);
      const words = foreignText(output.lastLines(3).join(" | "));
      const how = signal === null ? `exit code ${code}` : `it was killed by ${signal}`;
      finish(() => reject(failure ?? cannot(words === "" ? how : `${how}, "${words}"`)));
    });
  });
}

/**
 * `args[0]` of a hook is what it finds as its own name. `nsenter` cannot pass that on: a program that goes by its name (as
 * Docker's, which is dockerd itself) runs in our own namespace, where the specification has it.
 */
function command(hook: SpecHook, netnsPath: string | undefined): [string, string[], string] {
  const [name = hook.path, ...args] = hook.args ?? [];
  const goesByName = name !== hook.path && name !== basename(hook.path);
  if (netnsPath === undefined || goesByName) return [hook.path, args, name];
  return ["nsenter", [`--net=${netnsPath}`, "--", hook.path, ...args], "nsenter"];
}

function splitVariable(variable: string): [string, string] {
  const end = variable.indexOf("=");
  return end < 0 ? [variable, ""] : [variable.slice(0, end), variable.slice(end + 1)];
}
