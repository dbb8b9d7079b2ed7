import { existsSync, readdirSync, readFileSync, readlinkSync, utimesSync, writeFileSync } from "node:fs";
import { cp } from "node:fs/promises";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { HeldGuests } from "../../src/agent-client/held-guests.ts";
import { localCid, VsockSocket } from "../../src/base/vsock.ts";
import { Sandbox, type SandboxOptions, Template, type TemplateOptions } from "../../src/index.ts";
import { makePod } from "../peer/network/pod.ts";
import { image } from "../support/cli.ts";
import { run } from "../support/cli-run.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { createLibrary, type Library } from "../support/library.ts";
import { withSuiteSettings } from "../support/suite-settings.ts";

/** Else a VM cannot be saved: the lab has it (test/lab/suites.test.ts). */
const hasVhostVsock = existsSync("/dev/vhost-vsock");

let library: Library;
beforeAll(async () => {
  library = await createLibrary();
  // The image's disk is made once, and kept.
  await (await library.create({ storage: "erofs" })).close();
});
afterAll(() => library[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => library.leakScope());
afterEach(() => expect(savedFiles()).toEqual([]));

const clockToleranceMs = 10_000;

/** Files in memory of this process that VMs are restored from. */
function savedFiles(): string[] {
  return readdirSync("/proc/self/fd").flatMap((fd) => {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`);
      return target.startsWith("/memfd:caisson-") ? [target] : [];
    } catch {
      // The one that the directory was read by.
      return [];
    }
  });
}

/** The VMMs that this process has. */
function vmms(): number[] {
  return readdirSync("/proc/self/task")
    .flatMap((thread) => readFileSync(`/proc/self/task/${thread}/children`, "utf8").split(" "))
    .filter((pid) => pid !== "" && readFileSync(`/proc/${pid}/comm`, "utf8").startsWith("qemu-system"))
    .map(Number);
}

const createTemplate = (options: Partial<TemplateOptions> = {}) =>
  Template.create({ image, onLog: () => {}, ...options });
const from = (template: Template, options: SandboxOptions = {}) =>
  Sandbox.create({ template, onLog: () => {}, ...options });
const shell = async (sandbox: Sandbox, script: string) =>
  (await sandbox.run("sh", ["-c", script])).stdout.trim();

/** What took part in its start. It is written down beside the first call. */
async function phasesOf({ id }: Sandbox): Promise<string[]> {
  const path = library.dir.join("run/library", id, "timeline.json");
  await expect.poll(() => existsSync(path)).toBe(true);
  const phases = JSON.parse(readFileSync(path, "utf8")) as { name: string }[];
  return phases.map(({ name }) => name);
}

test.skipIf(hasVhostVsock)(
  "without the kernel's vhost-vsock there is no template, and nothing is left",
  async () => {
    await expect(createTemplate()).rejects.toMatchObject({
      code: "failed_precondition",
      message: expect.stringContaining("modprobe vhost_vsock") as string,
    });
  },
);

test("what cannot be a template is refused", async () => {
  const bad = [{ image: undefined }, { memoryMiB: 1 }, { storage: "erofs" }] as unknown as TemplateOptions[];
  for (const options of bad)
    await expect(createTemplate(options)).rejects.toMatchObject({ code: "invalid_argument" });
  const template = Promise.resolve() as unknown as Template;
  for (const options of [{}, { mounts: [] }, { memoryMiB: 128 }, { image }])
    await expect(from(template, options)).rejects.toMatchObject({ code: "invalid_argument" });
});

test.runIf(hasVhostVsock)(
  "sandboxes of a template go on from its memory, each as somebody else",
  async () => {
    await using template = await createTemplate({ memoryMiB: 256 });
    // Longer than the guest's clock may be wrong below.
    await sleep(clockToleranceMs + 5_000);
    const made = await Promise.all([
      from(template, { env: { NAME: "first" }, user: "1000:1000" }),
      from(template),
    ]);
    await using first = made[0];
    await using second = made[1];
    await using cold = await library.create({ storage: "erofs", memoryMiB: 256 });

    // Said only by a guest with the nonce that lies in the saved memory.
    expect(await phasesOf(first)).toContain("guest: restored");
    expect(await phasesOf(second)).toContain("guest: restored");
    expect(await phasesOf(cold)).not.toContain("guest: restored");
    expect(await shell(first, "id -u; echo $NAME; hostname")).toBe("1000\nfirst\nsandbox");
    expect(Math.abs(Number(await shell(second, "date +%s")) * 1000 - Date.now())).toBeLessThan(
      clockToleranceMs,
    );
    // The same in both if the kernel had made it before it was saved.
    const read = "cat /proc/sys/kernel/random/boot_id";
    expect(await shell(first, read)).not.toBe(await shell(second, read));
    // The layer of each is its own, and the memory that one writes to.
    await first.run("sh", ["-c", "echo mine >/tmp/file"]);
    expect(await shell(second, "ls /tmp; head -c 100000000 /dev/zero | tail -c 1 | wc -c")).toBe("1");
    await using third = await from(template);
    expect(await shell(third, "ls /tmp; grep -c ^processor /proc/cpuinfo")).toBe("1");
  },
);

test.runIf(hasVhostVsock)(
  "limits, files, ports and the end of the VM are what they are in a booted one",
  async () => {
    await using template = await createTemplate();
    await using sandbox = await from(template, { limits: { memoryMiB: 64, pids: 50 } });

    await sandbox.writeFile("/work/file", "content");
    expect(await sandbox.readFile("/work/file", { encoding: "utf8" })).toBe("content");
    expect((await sandbox.run("sh", ["-c", "head -c 200000000 /dev/zero | tail"])).exitCode).toBe(137);
    await sandbox.pause();
    await sandbox.resume();
    expect((await sandbox.stats()).pids?.limit).toBe(50);
    await expect(from(template, { limits: { memoryMiB: 100_000 } })).rejects.toMatchObject({
      code: "invalid_argument",
    });
  },
);

test.runIf(hasVhostVsock)(
  "a sandbox of a template has the link of a namespace, with its address",
  async () => {
    using net = makePod();
    await using template = await createTemplate();
    await using sandbox = await from(template, { network: { namespacePath: net.pod.path } });
    const mac = /link\/ether (\S+)/.exec(net.pod.run("ip -o link show dev eth0"))?.[1];

    expect(await shell(sandbox, "cat /sys/class/net/eth0/address")).toBe(mac);
    expect((await sandbox.run("ping", ["-c", "1", "-W", "20", "10.1.0.1"])).stdout).toContain(
      "1 packets received",
    );
  },
);

test.runIf(hasVhostVsock)("a closed template makes no sandbox, and those that it made stay", async () => {
  const template = await createTemplate();
  await using sandbox = await from(template);
  const started = Promise.allSettled([from(template)]);
  await Promise.all([template.close(), template.close()]);
  // One that was on its way is there, or was refused.
  for (const result of await started) {
    if (result.status === "fulfilled") await result.value.close();
    else expect(result.reason).toMatchObject({ code: "failed_precondition" });
  }

  await expect(from(template)).rejects.toMatchObject({ code: "failed_precondition" });
  expect(await shell(sandbox, "echo alive")).toBe("alive");
});

test.runIf(hasVhostVsock)("a template is saved anew when a file that it is made of has changed", async () => {
  const guest = library.dir.join("guest");
  await cp(resolve(import.meta.dirname, "../../build/guest"), guest, { recursive: true });
  const config = process.env["CAISSON_CONFIG"];
  process.env["CAISSON_CONFIG"] = library.dir.join("own-guest.toml");
  try {
    const directories = `state_directory = "${library.dir.join("run")}"\ndata_directory = "${library.dir.join("data")}"`;
    writeFileSync(
      process.env["CAISSON_CONFIG"],
      withSuiteSettings(`${directories}\nguest_directory = "${guest}"\nlog_level = "info"`),
    );
    const saved: string[] = [];
    await using template = await createTemplate({
      onLog: ({ message }) => void (message === "a VM was saved" && saved.push(message)),
    });
    await (await from(template)).close();
    expect(saved).toHaveLength(1);
    utimesSync(join(guest, "image.erofs"), 1, 1);

    await using sandbox = await from(template);

    expect(saved).toHaveLength(2);
    expect(await phasesOf(sandbox)).toContain("guest: restored");
  } finally {
    process.env["CAISSON_CONFIG"] = config;
  }
});

test.runIf(hasVhostVsock)("an open template does not keep a program running", async () => {
  const path = library.dir.join("program.mjs");
  const source = resolve(import.meta.dirname, "../../src/index.ts");
  writeFileSync(
    path,
    `import { Sandbox, Template } from ${JSON.stringify(source)};
const template = await Template.create({ image: ${JSON.stringify(image)}, onLog: () => {} });
await (await Sandbox.create({ template, onLog: () => {} })).close();
console.log("done");`,
  );
  const ended = await run([process.execPath, "--no-warnings", path], { env: library.env });

  expect(ended, ended.stderr).toMatchObject({ exitCode: 0, stdout: "done\n", timedOut: false });
});

test.runIf(hasVhostVsock).for([
  { what: "a template", make: (signal: AbortSignal) => createTemplate({ signal }), code: "canceled" },
  {
    what: "a template whose time is over",
    make: () => createTemplate({ timeoutMs: 400 }),
    code: "deadline_exceeded",
  },
])("$what that is given up leaves nothing", async ({ make, code }) => {
  const controller = new AbortController();
  const making = make(controller.signal);
  making.catch(() => {});
  // The VM boots by then.
  await sleep(500);
  controller.abort();

  await expect(making).rejects.toMatchObject({ code });
});

test.runIf(hasVhostVsock)(
  "a restore that fails leaves nothing, and the template is as good as before",
  async () => {
    await using template = await createTemplate();
    for (const waitMs of [0, 200, 800]) {
      const controller = new AbortController();
      const making = from(template, { signal: controller.signal });
      making.catch(() => {});
      await sleep(waitMs);
      controller.abort();
      await expect(making).rejects.toMatchObject({ code: "canceled" });
    }
    const killed = from(template);
    killed.catch(() => {});
    await expect.poll(vmms, { interval: 5 }).toHaveLength(1);
    for (const pid of vmms()) process.kill(pid, "SIGKILL");
    await expect(killed).rejects.toMatchObject({
      code: "unavailable",
      message: expect.stringContaining("killed by SIGKILL") as string,
    });

    await using sandbox = await from(template);
    expect(await shell(sandbox, "echo alive")).toBe("alive");
  },
);

test.runIf(hasVhostVsock)("a namespace with two links is refused", async () => {
  using net = makePod();
  net.pod.run(
    "ip link add other type veth peer name other-end && ip link set other up && ip addr add 10.9.0.1/24 dev other",
  );
  await using template = await createTemplate();

  await expect(from(template, { network: { namespacePath: net.pod.path } })).rejects.toMatchObject({
    code: "failed_precondition",
    message: expect.stringContaining("one network card") as string,
  });
});

test.runIf(hasVhostVsock)(
  "a guest that does not have the saved memory is not taken for one that was restored",
  async () => {
    await using guests = new HeldGuests();
    const say = async (line: string) => {
      await using listener = await guests.expectRestored(localCid);
      const ready = listener.ready(AbortSignal.timeout(20_000));
      const socket = await VsockSocket.connect({ cid: localCid, port: listener.port });
      socket.on("error", () => {}).write(line);
      await expect(ready).rejects.toMatchObject({ code: "unavailable" });
      socket.destroy();
      return listener.port;
    };

    const port = await say("READY 1\n");
    for (const line of [`READY 1 ${"0".repeat(32)}\n`, "x".repeat(100)]) expect(await say(line)).toBe(port);
    // Nobody listens in between, and one of another CID is not heard.
    await expect(VsockSocket.connect({ cid: localCid, port })).rejects.toMatchObject({ code: "unavailable" });
    await using other = await guests.expectRestored(localCid + 1_000);
    const stranger = await VsockSocket.connect({ cid: localCid, port: other.port });
    await new Promise<void>((resolve) => {
      stranger
        .on("error", () => {})
        .once("close", () => resolve())
        .resume();
    });
    await expect(other.ready(AbortSignal.timeout(500))).rejects.toMatchObject({ name: "TimeoutError" });
  },
);
