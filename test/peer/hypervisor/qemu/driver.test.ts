import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import { connect } from "node:net";
import { expect, test } from "vitest";
import { RuntimeError } from "../../../../src/base/errors.ts";
import { isAlive, type ProcessIdentity } from "../../../../src/base/processes.ts";
import type { RunningVm } from "../../../../src/hypervisor/hypervisor.ts";
import { createQemuDriver } from "../../../../src/hypervisor/qemu/driver.ts";
import { startVsockBackend, vsockBackendSocketName } from "../../../../src/hypervisor/qemu/vsock-backend.ts";
import type { VmConfig } from "../../../../src/hypervisor/vm-config.ts";
import {
  fakeBackend,
  fakeQemu,
  fakeUser,
  fakeVmConfig,
  writeFakeQemu,
  writeFakeVsockBackend,
} from "../../../support/fake-vmm.ts";
import { markedProcesses } from "../../../support/leaks-processes.ts";
import { createTempDir, type TempDir } from "../../../support/temp-dir.ts";

const never = new AbortController().signal;

interface Boot {
  readonly qemu?: string;
  readonly backend?: string;
  readonly config?: Partial<VmConfig>;
  readonly signal?: AbortSignal;
  readonly onProcess?: (name: string, identity: ProcessIdentity) => void;
}

function boot(
  dir: TempDir,
  { qemu, backend, config, signal = never, onProcess = () => {} }: Boot = {},
): Promise<RunningVm> {
  const programs = {
    qemuPath: writeFakeQemu(dir, qemu),
    vhostDeviceVsockPath: writeFakeVsockBackend(dir, backend),
  };
  return createQemuDriver(programs).boot(fakeVmConfig(dir, config), { signal, onProcess });
}

/** Nothing runs, and the VM's directory holds nothing but what the fakes recorded. */
function expectNothingLeft(dir: TempDir): void {
  expect(markedProcesses({ marks: [dir.token] }, /./)).toEqual([]);
  const records = ["argv", "status", "power-off", "backend-end"];
  expect(readdirSync(dir.join("vm")).filter((name) => !records.includes(name))).toEqual([]);
}

test("the backend is there once it listens, not once the file of its socket is", async () => {
  await using dir = createTempDir();
  const programPath = writeFakeVsockBackend(dir, fakeBackend.listensLate);
  const config = fakeVmConfig(dir);
  await using _backend = await startVsockBackend(config, { programPath, signal: never, onProcess: () => {} });

  const socket = connect(`${config.directory}/${vsockBackendSocketName}`);
  await once(socket, "connect");
  socket.destroy();
});

test("boot() runs QEMU and the backend as the VM's user without privileges, and stop() leaves nothing", async () => {
  await using dir = createTempDir();
  const told: [string, number][] = [];
  await using vm = await boot(dir, { onProcess: (name, { pid }) => told.push([name, pid]) });

  const status = readFileSync(dir.join("vm", "status"), "utf8");
  expect(told).toEqual([...vm.processes].map(([name, { pid }]) => [name, pid]).reverse());
  expect([...vm.processes.keys()].sort()).toEqual(["qemu", "vhost-device-vsock"]);
  expect(status).toMatch(new RegExp(`^Uid:(\\t${fakeUser.uid}){4}$`, "m"));
  expect(status).toMatch(new RegExp(`^Gid:(\\t${fakeUser.gid}){4}$`, "m"));
  expect(status).toMatch(/^Groups:\t ?$/m);
  expect(status).toMatch(/^CapBnd:\t0+$/m);
  expect(status).toMatch(/^NoNewPrivs:\t1$/m);
  expect(vm.consoleTail()).toBe("guest is up\n");

  await Promise.all([vm.stop({ graceMs: 0 }), vm.stop({ graceMs: 0 })]);

  expect([...vm.processes.values()].map((identity) => isAlive(identity))).toEqual([false, false]);
  expect(await vm.exited).toMatchObject({
    exit: { signal: "SIGKILL" },
    reason: "QEMU was killed by SIGKILL",
  });
  expectNothingLeft(dir);
});

test("boot() works with programs that only root can reach", async () => {
  await using dir = createTempDir();
  const closed = dir.join("closed");
  mkdirSync(closed);
  const inner = { ...dir, join: (...parts: string[]) => dir.join("closed", ...parts) };
  const programs = { qemuPath: writeFakeQemu(inner), vhostDeviceVsockPath: writeFakeVsockBackend(inner) };
  chmodSync(closed, 0o700);

  await using vm = await createQemuDriver(programs).boot(fakeVmConfig(dir), {
    signal: never,
    onProcess: () => {},
  });

  expect(vm.consoleTail()).toBe("guest is up\n");
});

interface Failure extends Boot {
  readonly name: string;
  readonly code: string;
  readonly message: RegExp;
}

const failures: Failure[] = [
  {
    name: "QEMU ends at once",
    qemu: fakeQemu.diesAtOnce,
    code: "unavailable",
    message:
      /^Cannot start the VM of sandbox "c\w+": QEMU exited with code 1, its last words: fake-qemu: -foo: invalid option$/,
  },
  {
    name: "QEMU ends after the guest said something",
    qemu: fakeQemu.diesWithConsole,
    code: "unavailable",
    message: /code 3, its last words: fake-qemu: gave up; the console's last lines: Kernel panic: no init$/,
  },
  {
    name: "QEMU does not speak QMP",
    qemu: "echo hello >&3; exec sleep 1000",
    code: "unavailable",
    message: /not JSON: hello/,
  },
  {
    name: "the backend ends at once",
    backend: fakeBackend.diesAtOnce,
    code: "unavailable",
    message:
      /^Cannot start the vsock backend of sandbox "c\w+": vhost-device-vsock exited with code 4, its last words: fake-backend: no such luck$/,
  },
  {
    name: "the backend ends while QEMU starts",
    qemu: "touch backend-end; exec sleep 1000",
    backend: fakeBackend.endsLater,
    code: "unavailable",
    message: /vhost-device-vsock exited with code 5/,
  },
  {
    name: "the kernel is not there",
    config: { kernel: { path: "/nowhere/vmlinux", commandLine: "", acpi: true } },
    code: "not_found",
    message: /^Cannot open "\/nowhere\/vmlinux" for the VM: ENOENT/,
  },
  {
    name: "the description is wrong",
    config: { vcpus: 0 },
    code: "invalid_argument",
    message: /it has 0 vCPUs/,
  },
  {
    name: "the network namespace is not there",
    config: { netnsPath: "/nowhere/netns" },
    code: "unavailable",
    message: /nsenter: .*\/nowhere\/netns/,
  },
  {
    name: "the journal cannot be written for the first process",
    onProcess: () => {
      throw new RuntimeError("resource_exhausted", "Cannot write the journal");
    },
    code: "resource_exhausted",
    message: /journal/,
  },
  {
    name: "the journal cannot be written for QEMU",
    onProcess: (name) => {
      if (name === "qemu") throw new RuntimeError("resource_exhausted", "Cannot write the journal");
    },
    code: "resource_exhausted",
    message: /journal/,
  },
];

test.each(failures)("boot() leaves nothing when $name", async ({ code, message, ...options }) => {
  await using dir = createTempDir();

  await expect(boot(dir, options)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });

  expectNothingLeft(dir);
});

test.each([
  {
    program: "qemuPath",
    message: /^Cannot start QEMU: "\/nowhere" is not there; install it \("apt-get install qemu-system-x86"\)/,
  },
  {
    program: "vhostDeviceVsockPath",
    message: /^Cannot start vhost-device-vsock: "\/nowhere" is not there; build it with "make build"/,
  },
])("boot() says how to get a missing program: $program", async ({ program, message }) => {
  await using dir = createTempDir();
  const programs = {
    qemuPath: writeFakeQemu(dir),
    vhostDeviceVsockPath: writeFakeVsockBackend(dir),
    [program]: "/nowhere",
  };

  const booting = createQemuDriver(programs).boot(fakeVmConfig(dir), { signal: never, onProcess: () => {} });

  await expect(booting).rejects.toMatchObject({ code: "not_found", message: expect.stringMatching(message) });
  expectNothingLeft(dir);
});

test("boot() refuses a program that cannot be executed", async () => {
  await using dir = createTempDir();
  const programs = { qemuPath: writeFakeQemu(dir), vhostDeviceVsockPath: writeFakeVsockBackend(dir) };
  chmodSync(programs.qemuPath, 0o644);

  const booting = createQemuDriver(programs).boot(fakeVmConfig(dir), { signal: never, onProcess: () => {} });

  await expect(booting).rejects.toMatchObject({
    code: "not_found",
    message: expect.stringContaining("cannot be executed (EACCES)"),
  });
});

test.each([
  { name: "before it began", abortAt: undefined },
  { name: "when the backend was started", abortAt: "vhost-device-vsock", backend: fakeBackend.isSilent },
  { name: "when QEMU was started", abortAt: "qemu", qemu: fakeQemu.isSilent },
])("boot() that is aborted $name throws the reason and leaves nothing", async ({ abortAt, ...options }) => {
  await using dir = createTempDir();
  const controller = new AbortController();
  const reason = new RuntimeError("canceled", "Cannot go on: the user left");
  if (abortAt === undefined) controller.abort(reason);
  const onProcess = (name: string) => {
    if (name === abortAt) setImmediate(() => controller.abort(reason));
  };

  await expect(boot(dir, { ...options, signal: controller.signal, onProcess })).rejects.toBe(reason);

  expectNothingLeft(dir);
});

test("boot() is not fooled by the sockets of a killed predecessor", async () => {
  await using dir = createTempDir();
  const config = fakeVmConfig(dir);
  for (const name of ["vhost-vsock.sock", "vsock"]) writeFileSync(dir.join("vm", name), "");
  const programs = { qemuPath: writeFakeQemu(dir), vhostDeviceVsockPath: writeFakeVsockBackend(dir) };

  await using vm = await createQemuDriver(programs).boot(config, { signal: never, onProcess: () => {} });

  expect(vm.consoleTail()).toBe("guest is up\n");
});

test("the death of QEMU ends the backend, and exited says how it died", async () => {
  await using dir = createTempDir();
  await using vm = await boot(dir);

  process.kill(vm.identity.pid, "SIGSEGV");

  expect(await vm.exited).toEqual({
    reason: "QEMU was killed by SIGSEGV",
    exit: { exitCode: null, signal: "SIGSEGV" },
  });
  expectNothingLeft(dir);
});

test("the death of the backend ends QEMU, and exited names the backend", async () => {
  await using dir = createTempDir();
  await using vm = await boot(dir);

  process.kill(vm.processes.get("vhost-device-vsock")?.pid ?? 0, "SIGKILL");

  expect(await vm.exited).toEqual({
    reason: "vhost-device-vsock was killed by SIGKILL",
    exit: { exitCode: null, signal: "SIGKILL" },
  });
  expectNothingLeft(dir);
});

test("stop() waits for a guest that powers off, and all of its last words are kept", async () => {
  await using dir = createTempDir();
  await using vm = await boot(dir, { qemu: fakeQemu.powersOff });

  writeFileSync(dir.join("vm", "power-off"), "");
  await vm.stop({ graceMs: 20_000 });

  expect(await vm.exited).toEqual({
    reason: "QEMU exited with code 0 after the guest powered off",
    exit: { exitCode: 0, signal: null },
  });
  expect(vm.consoleTail()).toBe("Power down\n");
  expectNothingLeft(dir);
});

test("stop() kills a QEMU that was stopped by a signal when the grace is over", async () => {
  await using dir = createTempDir();
  await using vm = await boot(dir);
  process.kill(vm.identity.pid, "SIGSTOP");

  const start = performance.now();
  await vm.stop({ graceMs: 100 });

  expect(performance.now() - start).toBeGreaterThanOrEqual(99);
  expect(await vm.exited).toMatchObject({ exit: { signal: "SIGKILL" } });
  expectNothingLeft(dir);
});

test("a console that floods is cut to its last 64 KiB and does not hold up QEMU", async () => {
  await using dir = createTempDir();
  const flood = `head -c 10000000 /dev/zero | tr '\\0' x >&4; echo END >&4; touch flooded; ${fakeQemu.runs}`;

  await using vm = await boot(dir, { qemu: flood });

  expect(existsSync(dir.join("vm", "flooded"))).toBe(true);
  expect(vm.consoleTail().length).toBe(64 * 1024);
  await vm.stop({ graceMs: 0 });
});
