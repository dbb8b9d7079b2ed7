/**
 * The lab: a Debian host with KVM, vhost-vsock and AF_VSOCK, run by QEMU in software emulation of a CPU with SVM. The tree
 * and the cache lie in it at the same paths as outside; what is written there is forgotten with it.
 */
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import type { Duplex } from "node:stream";
import { Cleanup } from "../../src/base/cleanup.ts";
import { type Daemon, type DaemonExit, startDaemon } from "../../src/base/daemon.ts";
import { keepAlive } from "../../src/base/keep-alive.ts";
import { abortable, scope } from "../../src/base/scope.ts";
import { TextRing } from "../../src/base/text-ring.ts";
import { readHostCpu } from "../../src/hypervisor/host-cpu.ts";
import { startVirtiofsd } from "../../src/storage/virtiofsd.ts";

const root = resolve(import.meta.dirname, "../..");
const cache = join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "caisson");
const out = join(root, "build/lab/out");
const virtiofsdPath = join(root, "build/libexec/virtiofsd");
const qemuPath = "/usr/bin/qemu-system-x86_64";
/** The disk is read once; a laboratory on a busy machine takes a minute. */
const bootTimeoutMs = 300_000;
const memoryMiB = 4096;
/** In the directory of the lab. */
const spareFile = "spare.img";

export interface LabOptions {
  /** Folder with disk.ext4 and vmlinux, which scripts/lab-image prints. */
  readonly image: string;
  /** Gives the console to whoever runs this, with a shell on it. */
  readonly isInteractive?: boolean;
  /** With an IOMMU, and a spare disk behind it (`spareDisk`). */
  readonly hasIommu?: boolean;
  /** Gives the boot up; once it is up, disposing ends the lab. */
  readonly signal?: AbortSignal;
}

/** A PCI device of a lab with an IOMMU that nobody needs. */
export const spareDisk = { address: "0000:00:10.0", serial: "spare", text: "spare disk\n", sectors: 2048 };

export interface LabResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A running lab. Disposing ends it and leaves nothing. */
export interface Lab extends AsyncDisposable {
  /** Runs a bash script in the root of the tree. Several at a time are fine. */
  run(script: string, options?: { timeoutMs?: number }): Promise<LabResult>;
  consoleTail(): string;
  /** Resolves when the lab has ended. */
  readonly ended: Promise<unknown>;
}

/** Boots the lab and returns when it takes commands (a shell: at once). */
export async function bootLab(options: LabOptions): Promise<Lab> {
  mkdirSync(out, { recursive: true });
  await using cleanup = new Cleanup();
  const directory = mkdtempSync(join(tmpdir(), "caisson-lab-"));
  cleanup.defer("directory of the lab", () => rmSync(directory, { recursive: true, force: true }));
  chmodSync(directory, 0o700);
  for (const [tag, path] of [
    ["tree", root],
    ["cache", cache],
  ] as const) {
    const share = await startVirtiofsd({
      program: virtiofsdPath,
      sharedDirectory: path,
      directory,
      socketPath: join(directory, `${tag}.sock`),
      user: { uid: 0, gid: 0 },
    });
    cleanup.defer(`share ${tag}`, () => share.stop(0));
  }
  if (options.hasIommu === true) {
    writeFileSync(join(directory, spareFile), spareDisk.text);
    truncateSync(join(directory, spareFile), spareDisk.sectors * 512);
  }
  const console = new TextRing(64 * 1024);
  const { tscKhz } = await readHostCpu();
  const argv = [qemuPath, ...planLab(options, tscKhz)];
  const qemu =
    options.isInteractive === true
      ? startOnTerminal(argv, directory)
      : await startInBackground(argv, directory);
  cleanup.defer("QEMU", () => qemu.stop(0));
  const [consoleSocket, control] = qemu.sockets;
  consoleSocket?.on("data", (chunk: Buffer) => console.push(chunk)).on("error", () => {});
  const commands = control === undefined ? undefined : new Commands(control);
  const consoleTail = () => console.toString();
  if (commands !== undefined) {
    using limit = scope(options.signal, bootTimeoutMs, "the boot of the lab");
    const end = qemu.exited.then(() => {
      throw new Error(`${qemu.lastWords()}\n${consoleTail()}`);
    });
    await abortable(Promise.race([commands.ready, end]), limit.signal).catch((cause: unknown) => {
      options.signal?.throwIfAborted();
      throw new Error(`Cannot boot the lab; its console ends with:\n${consoleTail()}`, { cause });
    });
  }
  const owned = cleanup.move();
  return {
    consoleTail,
    get ended() {
      return keepAlive(qemu.exited);
    },
    run: (script, { timeoutMs = 180_000 } = {}) => {
      if (commands === undefined) throw new Error("A lab with a shell takes no commands");
      return commands.run(script, timeoutMs, qemu);
    },
    // By itself a child does not keep a program running that waits for nothing else.
    [Symbol.asyncDispose]: () => keepAlive(owned[Symbol.asyncDispose]()),
  };
}

type LabProcess = Pick<Daemon, "sockets" | "exited" | "lastWords" | "stop">;

/** Its fds 3 and 4 are the console and the control line. */
function startInBackground(argv: readonly string[], cwd: string): Promise<LabProcess> {
  const fds = ["socket", "socket"] as const;
  return startDaemon({ name: "the lab", argv, privileges: { capabilities: [] }, cwd, fds });
}

/** It has our terminal, and whoever sits there. */
function startOnTerminal([file = "", ...args]: readonly string[], cwd: string): LabProcess {
  const child = spawn(file, args, { cwd, stdio: "inherit" });
  const exited = new Promise<DaemonExit>((resolve) => {
    child.once("exit", (exitCode, signal) => resolve({ exitCode, signal }));
    child.once("error", () => resolve({ exitCode: 127, signal: null }));
  });
  return {
    sockets: [],
    exited,
    lastWords: () => "the lab has ended",
    stop: async () => {
      child.kill("SIGKILL");
      await exited;
    },
  };
}

/** QEMU's arguments. Its serial ports: the console, and the control line of lab/init. */
function planLab(
  { image, isInteractive = false, hasIommu = false }: LabOptions,
  tscKhz: number | undefined,
): string[] {
  const commandLine = [
    "console=ttyS0 panic=-1 quiet no_timer_check",
    ...(tscKhz === undefined ? [] : [`tsc_early_khz=${tscKhz} tsc=reliable`]),
    `lab.root=${root} lab.cache=${cache}`,
    ...(isInteractive ? ["lab.shell"] : []),
    // The lab's own devices go past it.
    ...(hasIommu ? ["intel_iommu=on iommu=pt"] : []),
  ].join(" ");
  const serial = isInteractive
    ? "-serial mon:stdio"
    : "-chardev socket,id=console,fd=3 -serial chardev:console -chardev socket,id=control,fd=4 -serial chardev:control";
  const share = (tag: string) =>
    `-chardev socket,id=${tag},path=${tag}.sock -device vhost-user-fs-pci,chardev=${tag},tag=${tag}`;
  const machine = [
    "-machine q35,memory-backend=mem -nodefaults -no-user-config -display none -no-reboot",
    // One processor: with two that run at once nested guests hang now and then.
    `-accel tcg -cpu max,+svm -smp 1 -m ${memoryMiB}`,
    `-object memory-backend-memfd,id=mem,size=${memoryMiB}M,share=on`,
    // Before the devices that it is for.
    ...(hasIommu ? [iommu] : []),
    "-object rng-builtin,id=rng -device virtio-rng-pci,rng=rng",
    share("tree"),
    share("cache"),
    serial,
  ].flatMap((words) => words.split(" "));
  const files = [
    ["-kernel", join(image, "vmlinux")],
    ["-initrd", join(root, "build/lab/initrd")],
    ["-append", commandLine],
    // What is written goes to a file that has no name.
    ["-drive", `file=${join(image, "disk.ext4")},format=raw,if=virtio,snapshot=on`],
  ].flat();
  return [...machine, ...files];
}

/** VFIO wants interrupts to be remapped, too. */
const iommu = [
  "-device intel-iommu,intremap=on,caching-mode=on",
  `-drive file=${spareFile},format=raw,if=none,id=spare`,
  `-device virtio-blk-pci,drive=spare,serial=${spareDisk.serial},addr=${spareDisk.address.slice(-4)},iommu_platform=on,disable-legacy=on`,
].join(" ");

/** The control line of lab/init: `run NAME` is answered by `done NAME STATUS`. */
class Commands {
  readonly ready: Promise<void>;
  readonly #line: Duplex;
  readonly #waiting = new Map<string, (exitCode: number) => void>();

  constructor(line: Duplex) {
    this.#line = line;
    const { promise, resolve: becomeReady } = Promise.withResolvers<void>();
    this.ready = promise;
    line.on("error", () => {});
    createInterface({ input: line }).on("line", (text) => {
      const [verb, name = "", status] = text.trim().split(" ");
      if (verb === "ready") becomeReady();
      if (verb === "done") this.#waiting.get(name)?.(Number(status));
    });
  }

  async run(script: string, timeoutMs: number, qemu: LabProcess): Promise<LabResult> {
    const name = randomBytes(6).toString("hex");
    const file = (suffix: string) => join(out, `${name}.${suffix}`);
    writeFileSync(file("sh"), script);
    using limit = scope(undefined, timeoutMs, "a command in the lab");
    const end = qemu.exited.then(() => {
      throw new Error(`The lab ended: ${qemu.lastWords()}`);
    });
    try {
      const done = new Promise<number>((resolve) => this.#waiting.set(name, resolve));
      this.#line.write(`run ${name}\n`);
      const exitCode = await abortable(Promise.race([done, end]), limit.signal);
      return {
        exitCode,
        stdout: readFileSync(file("out"), "utf8"),
        stderr: readFileSync(file("err"), "utf8"),
      };
    } finally {
      this.#waiting.delete(name);
      for (const suffix of ["sh", "out", "err"]) rmSync(file(suffix), { force: true });
    }
  }
}

/** Whether there is a lab to boot, by what scripts/test-lab has found. */
export function labImage(): { tag: "there"; path: string } | { tag: "missing"; reason: string } {
  const path = process.env["CAISSON_TEST_LAB"] ?? "";
  return path === ""
    ? { tag: "missing", reason: "there is no image of the lab; make test-lab makes it" }
    : { tag: "there", path };
}
