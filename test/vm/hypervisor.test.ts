import { chownSync, existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { resolve } from "node:path";
import { expect, test } from "vitest";
import { listenForReady } from "../../src/agent-client/ready.ts";
import { isAlive } from "../../src/base/processes.ts";
import { readHostCpu } from "../../src/hypervisor/host-cpu.ts";
import type { RunningVm } from "../../src/hypervisor/hypervisor.ts";
import { formatKernelParams } from "../../src/hypervisor/kernel-params.ts";
import { createQemuDriver } from "../../src/hypervisor/qemu/driver.ts";
import type { Kernel, VmConfig } from "../../src/hypervisor/vm-config.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { attachLoop } from "../support/loops.ts";
import { createTempDir, type TempDir } from "../support/temp-dir.ts";

const build = resolve(import.meta.dirname, "../../build");
const tuned = resolve(build, "guest/tuned/vmlinux");
const user = { uid: 987_655, gid: 987_655 };
const bootTimeoutMs = 60_000;
const { tscKhz } = await readHostCpu();

const driver = createQemuDriver({
  qemuPath: "/usr/bin/qemu-system-x86_64",
  vhostDeviceVsockPath: resolve(build, "libexec/vhost-device-vsock"),
});

const debianKernel: Kernel = {
  path: resolve(build, "guest/vmlinux"),
  initrdPath: resolve(build, "guest/initrd"),
  commandLine: commandLine(true),
  acpi: true,
};
const tunedKernel: Kernel = { path: tuned, commandLine: commandLine(false), acpi: false };

function commandLine(hasInitrd: boolean): string {
  return formatKernelParams({ hasInitrd, debugAgent: false, ...(tscKhz === undefined ? {} : { tscKhz }) });
}

interface Booted extends AsyncDisposable {
  readonly vm: RunningVm;
  readonly ready: Promise<void>;
}

async function boot(dir: TempDir, changes: Partial<VmConfig> = {}): Promise<Booted> {
  const directory = dir.join("vm");
  mkdirSync(directory, { mode: 0o700 });
  chownSync(directory, user.uid, user.gid);
  const listener = await listenForReady({ tag: "hybrid", path: dir.join("vm/vsock") });
  chownSync(dir.join("vm/vsock_1026"), user.uid, user.gid);
  const config: VmConfig = {
    sandboxId: dir.token,
    directory,
    user,
    machine: "microvm",
    accelerator: "tcg",
    vcpus: 1,
    memoryMiB: 256,
    kernel: debianKernel,
    disks: [{ id: "image", path: resolve(build, "guest/image.erofs"), readOnly: true }],
    shares: [],
    nics: [],
    vsock: { tag: "vhost-device-vsock" },
    ...changes,
  };
  const signal = AbortSignal.timeout(bootTimeoutMs);
  const ready = listener.ready(signal);
  ready.catch(() => {
    // Looked at by the tests that boot to the end.
  });
  try {
    const vm = await driver.boot(config, { signal, onProcess: () => {} });
    return {
      vm,
      ready,
      async [Symbol.asyncDispose]() {
        await vm[Symbol.asyncDispose]();
        await listener[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    await listener[Symbol.asyncDispose]();
    throw error;
  }
}

let scope = { marks: ["/caisson-"] };
checkLeaksAroundEachTest(() => scope);

interface Combination {
  readonly name: string;
  readonly kernel: Kernel;
  readonly machine: "microvm" | "q35";
}

const combinations: Combination[] = [
  { name: "Debian's kernel on microvm", kernel: debianKernel, machine: "microvm" },
  { name: "Debian's kernel on q35", kernel: debianKernel, machine: "q35" },
  ...(existsSync(tuned)
    ? [
        { name: "the tuned kernel on microvm", kernel: tunedKernel, machine: "microvm" } as const,
        { name: "the tuned kernel on q35", kernel: tunedKernel, machine: "q35" } as const,
      ]
    : []),
];

test.each(combinations)(
  "boot(): $name gets to a ready agent, and its end leaves nothing",
  async ({ kernel, machine }) => {
    await using dir = createTempDir();
    scope = { marks: [dir.token] };
    const { vm, ready } = await boot(dir, { kernel, machine, vcpus: 2 });
    await using _ = vm;

    await Promise.race([
      ready,
      vm.exited.then(({ reason }) => Promise.reject(new Error(`${reason}\n${vm.consoleTail()}`))),
    ]);

    const start = performance.now();
    process.kill(vm.identity.pid, "SIGKILL");
    expect(await vm.exited).toMatchObject({ reason: "QEMU was killed by SIGKILL" });
    expect(performance.now() - start).toBeLessThan(1_000);
    expect([...vm.processes.values()].filter((identity) => isAlive(identity))).toEqual([]);
    expect(readdirSync(dir.join("vm"))).toEqual([]);
  },
);

test("QEMU has no privileges, a system call filter, and only the descriptors meant for it", async () => {
  await using dir = createTempDir();
  scope = { marks: [dir.token] };
  await using booted = await boot(dir);
  const { vm, ready } = booted;
  await ready;

  const proc = `/proc/${vm.identity.pid}`;
  const status = readFileSync(`${proc}/status`, "utf8");
  expect(status).toMatch(new RegExp(`^Uid:(\\t${user.uid}){4}$`, "m"));
  expect(status).toMatch(/^CapEff:\t0+$/m);
  expect(status).toMatch(/^CapBnd:\t0+$/m);
  expect(status).toMatch(/^NoNewPrivs:\t1$/m);
  expect(status).toMatch(/^Seccomp:\t2$/m);
  const files = readdirSync(`${proc}/fd`)
    .map((fd) => readlinkSync(`${proc}/fd/${fd}`))
    .filter((target) => target.startsWith("/") && !target.startsWith("/memfd:"));
  expect(new Set(files)).toEqual(
    new Set([debianKernel.path, debianKernel.initrdPath, "/dev/null", resolve(build, "guest/image.erofs")]),
  );
});

test("boot() says what QEMU said when it cannot start, and leaves nothing", async () => {
  await using dir = createTempDir();
  scope = { marks: [dir.token] };

  // More than any address space.
  await expect(boot(dir, { memoryMiB: 1024 ** 3 })).rejects.toMatchObject({
    code: "unavailable",
    message: expect.stringMatching(
      /^Cannot start the VM of sandbox "c\w+": QEMU exited with code 1, its last words: .*qemu/,
    ),
  });

  expect(readdirSync(dir.join("vm"))).toEqual([]);
});

test("a guest that never lets go keeps an empty disk and its slot, and the host's device is free", async () => {
  await using dir = createTempDir();
  scope = { marks: [dir.token] };
  using loop = attachLoop(dir, "volume");
  // It has panicked and does nothing any more, for ever.
  const commandLine = debianKernel.commandLine
    .replace("panic=-1", "panic=0")
    .replace("quiet", "rdinit=/no/such/init init=/none");
  await using booted = await boot(dir, {
    machine: "q35",
    kernel: { ...debianKernel, commandLine },
    disks: [],
    growth: { maxVcpus: 2, maxMemoryMiB: 512 },
  });
  const { vm } = booted;
  await expect.poll(() => vm.consoleTail(), { timeout: bootTimeoutMs }).toContain("Kernel panic");
  const hasOpen = () => {
    const fds = `/proc/${vm.identity.pid}/fd`;
    return readdirSync(fds).some((fd) => readlinkSync(`${fds}/${fd}`) === loop.path);
  };
  const disk = (id: string) => ({ id, path: loop.path, readOnly: false, isBlockDevice: true });

  await vm.plug({ tag: "disk", disk: disk("kept") });
  expect(hasOpen()).toBe(true);
  await expect(vm.unplug("kept")).rejects.toMatchObject({
    code: "deadline_exceeded",
    message: expect.stringContaining("has not let go of it"),
  });
  expect(hasOpen()).toBe(false);

  for (let index = 1; index < 16; index++)
    await vm.plug({ tag: "disk", disk: { ...disk(`d${index}`), readOnly: true } });
  await expect(vm.plug({ tag: "disk", disk: disk("more") })).rejects.toMatchObject({
    code: "resource_exhausted",
  });
  await expect(
    vm.plug({ tag: "disk", disk: { ...disk("kept"), path: dir.join("missing") } }),
  ).rejects.toThrow();
});

test("a guest whose first process cannot run ends its VM, and the console says why", async () => {
  await using dir = createTempDir();
  scope = { marks: [dir.token] };
  const kernel = {
    ...debianKernel,
    commandLine: debianKernel.commandLine.replace("quiet", "rdinit=/no/such/init init=/none"),
  };
  await using booted = await boot(dir, { kernel, disks: [] });
  const { vm } = booted;

  expect(await vm.exited).toEqual({
    reason: "QEMU exited with code 0 after the guest reset",
    exit: { exitCode: 0, signal: null },
  });
  expect(vm.consoleTail()).toContain("Kernel panic");
});
