import { closeSync, openSync, readdirSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { isAlive } from "../../../../src/base/processes.ts";
import { createCloudHypervisorDriver } from "../../../../src/hypervisor/cloud-hypervisor/driver.ts";
import type { RunningVm } from "../../../../src/hypervisor/hypervisor.ts";
import type { VmConfig } from "../../../../src/hypervisor/vm-config.ts";
import {
  fakeCloudHypervisor,
  recordedRequests,
  writeFakeCloudHypervisor,
} from "../../../support/fake-cloud-hypervisor.ts";
import { fakeUser, fakeVmConfig } from "../../../support/fake-vmm.ts";
import { markedProcesses } from "../../../support/leaks-processes.ts";
import { createTempDir, type TempDir } from "../../../support/temp-dir.ts";

const never = new AbortController().signal;

function boot(
  dir: TempDir,
  body?: string,
  { signal = never, config = {} }: { signal?: AbortSignal; config?: Partial<VmConfig> } = {},
): Promise<RunningVm> {
  const cloudHypervisorPath = writeFakeCloudHypervisor(dir, body);
  const driver = createCloudHypervisorDriver({ cloudHypervisorPath, warn: () => {} });
  const vmConfig = fakeVmConfig(dir, { accelerator: "kvm", vsock: { tag: "hybrid" }, ...config });
  return driver.boot(vmConfig, { signal, onProcess: () => {} });
}

/** Nothing runs, and the VM's directory holds nothing but what the fake recorded. */
function expectNothingLeft(dir: TempDir): void {
  expect(markedProcesses({ marks: [dir.token] }, /./)).toEqual([]);
  const records = ["argv", "status", "requests"];
  expect(readdirSync(dir.join("vm")).filter((name) => !records.includes(name))).toEqual([]);
}

test("boot() describes the VM, adds its network, boots it, without privileges; stop() leaves nothing", async () => {
  await using dir = createTempDir();
  // Any descriptor will do for the fake.
  const tapFd = openSync("/dev/null", "r+");
  const nics = [{ id: "eth0", macAddress: "02:00:00:00:00:01", tapFd }];
  await using vm = await boot(dir, undefined, { config: { nics } });
  closeSync(tapFd);

  expect(recordedRequests(dir).map(({ endpoint }) => endpoint)).toEqual([
    "vm.create",
    "vm.add-net",
    "vm.boot",
  ]);
  expect(recordedRequests(dir)[0]?.body).toMatchObject({ payload: { cmdline: "quiet" } });
  const status = readFileSync(dir.join("vm", "status"), "utf8");
  expect(status).toMatch(new RegExp(`^Uid:(\\t${fakeUser.uid}){4}$`, "m"));
  expect(status).toMatch(/^CapBnd:\t0+$/m);
  expect(status).toMatch(/^NoNewPrivs:\t1$/m);
  await expect.poll(() => vm.consoleTail()).toBe("guest is up\n");

  await vm.stop({ graceMs: 0 });

  expect([...vm.processes].map(([name, identity]) => [name, isAlive(identity)])).toEqual([
    ["cloud hypervisor", false],
  ]);
  expect(await vm.exited).toMatchObject({ reason: "Cloud Hypervisor was killed by SIGKILL" });
  expectNothingLeft(dir);
});

test.each([
  {
    name: "it refuses the description",
    body: fakeCloudHypervisor.refusesTheVm,
    error: { code: "invalid_argument", message: expect.stringContaining("no such kernel") },
  },
  {
    name: "it cannot boot",
    body: fakeCloudHypervisor.failsToBoot,
    error: { code: "internal", message: expect.stringContaining("Cannot open /dev/kvm") },
  },
  {
    name: "it dies",
    body: fakeCloudHypervisor.diesAtBoot,
    error: { code: "unavailable", message: expect.stringMatching(/exited with code 7.*seccomp violation/) },
  },
])("boot() says why when $name, and leaves nothing", async ({ body, error }) => {
  await using dir = createTempDir();

  await expect(boot(dir, body)).rejects.toMatchObject(error);

  expectNothingLeft(dir);
});

test("boot() of one that does not answer ends with the signal, and leaves nothing", async () => {
  await using dir = createTempDir();
  const controller = new AbortController();
  const booting = boot(dir, fakeCloudHypervisor.isSilent, { signal: controller.signal });
  booting.catch(() => {});
  await expect.poll(() => recordedRequests(dir).length, { timeout: 30_000 }).toBe(1);

  controller.abort(new Error("no longer wanted"));

  await expect(booting).rejects.toThrow("no longer wanted");
  expectNothingLeft(dir);
});

test("boot() without the program says how to get it", async () => {
  await using dir = createTempDir();
  const driver = createCloudHypervisorDriver({ cloudHypervisorPath: "/no/such/program", warn: () => {} });
  const config = fakeVmConfig(dir, { accelerator: "kvm", vsock: { tag: "hybrid" } });

  await expect(driver.boot(config, { signal: never, onProcess: () => {} })).rejects.toMatchObject({
    code: "not_found",
    message: expect.stringContaining("cloud_hypervisor_path"),
  });
});

test("a guest that reboots ends its VM: it boots once", async () => {
  await using dir = createTempDir();
  await using vm = await boot(dir, fakeCloudHypervisor.reboots);

  expect(await vm.exited).toMatchObject({
    reason: "Cloud Hypervisor was killed by SIGKILL after the guest reset",
  });
  expectNothingLeft(dir);
});
