import { type RunResult, outcome, run, runOk } from "../support/cli-run.ts";
import { type Containerd, runtime } from "../support/containerd.ts";

/** The runtime that ours is shown beside, in the same containerd. */
export const runcRuntime = "io.containerd.runc.v2";

/** The command line of `ctr run` with one of the runtimes. */
export function ctrRunArgv(
  containerd: Containerd,
  runtimeName: string,
  flags: readonly string[],
  id: string,
  ...command: string[]
): string[] {
  const args = containerd.runArgs(flags, id, ...command);
  return containerd.ctrArgv(...args.map((arg) => (arg === runtime ? runtimeName : arg)));
}

/** Runs `true` in a container of its own; returns the milliseconds from the start of the command to its end. */
export async function runTrue(containerd: Containerd, runtimeName: string, name: string): Promise<number> {
  const argv = ctrRunArgv(containerd, runtimeName, ["--rm"], containerd.id(name), "true");
  return succeeded(await run(argv)).durationMs;
}

/** A container of runc that sleeps. Disposing removes it. */
export async function startRuncTask(
  containerd: Containerd,
  name: string,
): Promise<AsyncDisposable & { readonly id: string }> {
  const id = containerd.id(name);
  await runOk(ctrRunArgv(containerd, runcRuntime, ["--detach"], id, "sleep", "100000"));
  return {
    id,
    [Symbol.asyncDispose]: async () => {
      await containerd.ctr(["task", "rm", "--force", id]);
      await containerd.ctr(["container", "rm", id]);
    },
  };
}

/** @throws Error  the exit code is not 0 */
export function succeeded(result: RunResult): RunResult {
  if (result.exitCode !== 0) throw new Error(`A command failed: ${outcome(result)}`);
  return result;
}

export function ms(value: number | undefined): string {
  return value === undefined ? "-" : `${value.toFixed(0)} ms`;
}
