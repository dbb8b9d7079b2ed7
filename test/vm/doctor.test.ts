import { afterAll, beforeAll, expect, test } from "vitest";
import { type Cli, createCli } from "../support/cli.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { vmmPathSetting } from "../support/suite-settings.ts";

interface Report {
  readonly healthy: boolean;
  readonly checks: readonly { readonly name: string; readonly status: string; readonly remedy?: string }[];
  readonly timeline?: readonly { readonly name: string }[];
}

let cli: Cli;
beforeAll(async () => {
  cli = await createCli();
});
afterAll(() => cli[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => cli.leakScope(), { cleanUp: () => cli.removeAll() });

test("doctor says what the host can do, boots a VM, and leaves nothing", async () => {
  const result = await cli.run(["doctor"]);

  expect(result, result.stdout + result.stderr).toMatchObject({ exitCode: 0, stderr: "" });
  expect(result.stdout).toMatch(/^ok +boot +a VM booted, answered and ended/m);
  expect(result.stdout).toMatch(/^ +vsock \((vhost-vsock|vhost-device-vsock|hybrid)\)/m);
  expect(result.stdout).toMatch(/Sandboxes can run here\.\n$/);
});

test("doctor --json has every check; a VM that cannot boot makes the exit code 1", async () => {
  using _ = cli.configure("boot_timeout_ms = 1");
  const result = await cli.run(["doctor", "--json"]);
  const report = JSON.parse(result.stdout) as Report;

  expect(result.exitCode).toBe(1);
  expect(report.healthy).toBe(false);
  expect(report.checks.find(({ name }) => name === "boot")).toMatchObject({
    status: "error",
    remedy: expect.any(String),
  });
});

test("doctor --no-boot only looks, and finds what is missing", async () => {
  using _ = cli.configure(`${vmmPathSetting} = "/no/such/vmm"`);
  const result = await cli.run(["doctor", "--no-boot"]);

  expect(result.exitCode).toBe(1);
  expect(result.stdout).toMatch(
    /^ERROR +(QEMU|Cloud Hypervisor) +there is no "\/no\/such\/vmm"\n.*\n +mend it: /m,
  );
  expect(result.stdout).not.toMatch(/^\w+ +boot/m);
});
