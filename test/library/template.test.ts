import { existsSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { cp } from "node:fs/promises";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
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
});

test.runIf(hasVhostVsock)(
  "sandboxes of a template go on from its memory, each as somebody else",
  async () => {
    await using template = await createTemplate({ memoryMiB: 256 });
    await using first = await from(template, { env: { NAME: "first" }, user: "1000:1000" });
    await using second = await from(template);
    const cold = await library.create({ storage: "erofs", memoryMiB: 256 });
    await using _cold = cold;

    // Said only by a guest with the nonce that lies in the saved memory.
    expect(await phasesOf(first)).toContain("guest: restored");
    expect(await phasesOf(cold)).not.toContain("guest: restored");
    expect(await shell(first, "id -u; echo $NAME; hostname")).toBe("1000\nfirst\nsandbox");
    const read =
      "cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid; head -c 16 /dev/urandom | od -A n -x";
    const drawn = [await shell(first, read), await shell(second, read)].flatMap((text) => text.split("\n"));
    expect(drawn).toHaveLength(6);
    expect(new Set(drawn).size).toBe(6);
    expect(Math.abs(Number(await shell(second, "date +%s")) - Date.now() / 1000)).toBeLessThan(30);
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

test.runIf(hasVhostVsock)(
  "a guest that does not have the saved memory is not taken for one that was restored",
  async () => {
    await using guests = HeldGuests.listen();
    const say = async (line: string) => {
      const listener = guests.expectRestored(localCid);
      const ready = listener.ready(AbortSignal.timeout(20_000));
      await using socket = await VsockSocket.connect({ cid: localCid, port: listener.port });
      socket.on("error", () => {}).write(line);
      return await ready;
    };

    for (const line of ["READY 1\n", `READY 1 ${"0".repeat(32)}\n`, "x".repeat(100)])
      await expect(say(line)).rejects.toMatchObject({ code: "unavailable" });
  },
);
