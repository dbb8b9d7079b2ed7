import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Sandbox, SandboxEvent } from "../../src/index.ts";
import { makePod } from "../peer/network/pod.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { createLibrary, type Library } from "../support/library.ts";

let library: Library;
beforeAll(async () => {
  library = await createLibrary();
});
afterAll(() => library[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => library.leakScope());

test("memory, vCPUs, mounts, user and no network: what the sandbox was asked for", async () => {
  const [writable, readOnly] = [library.dir.join("writable"), library.dir.join("read-only")];
  for (const path of [writable, readOnly]) mkdirSync(path, { recursive: true });
  writeFileSync(`${readOnly}/file`, "from the host");
  await using sandbox = await library.create({
    memoryMiB: 256,
    vcpus: 2,
    user: "1000:1000",
    mounts: [
      { source: writable, target: "/writable" },
      { source: readOnly, target: "/read-only", readOnly: true },
    ],
  });
  const shell = async (script: string, user?: string) =>
    (await sandbox.run("sh", ["-c", script], user === undefined ? {} : { user })).stdout;

  expect(await shell("id -u; grep -c ^processor /proc/cpuinfo")).toBe("1000\n2\n");
  expect(Number(await shell("awk '/MemTotal/ { print $2 }' /proc/meminfo"))).toBeLessThan(256 * 1024);
  // A device is there, for networks that come late; it is down.
  expect(await shell("cat /sys/class/net/*/operstate")).not.toContain("up");
  expect(await shell("echo back >/writable/file; echo x >/read-only/file; cat /read-only/file", "0")).toBe(
    "from the host",
  );
  expect(readFileSync(`${writable}/file`, "utf8")).toBe("back\n");
});

test("a sandbox has the links of a namespace, which stays the caller's", async () => {
  using net = makePod();
  {
    await using sandbox = await library.create({ network: { namespacePath: net.pod.path } });
    const { stdout } = await sandbox.run("ip", ["-o", "-4", "addr", "show", "dev", "eth0"]);
    expect(stdout).toContain("10.1.0.5/24");
    const ping = await sandbox.run("ping", ["-c", "1", "-W", "20", "10.1.0.1"]);
    expect(ping.stdout).toContain("1 packets received");
  }
  expect(net.pod.run("ip -o -4 addr show dev eth0")).toContain("10.1.0.5/24");
  expect(net.pod.run("ip -o link show")).not.toContain("tap0_caisson");
});

test("a directory as root file system is not written to", async () => {
  const images = library.dir.join("data/images");
  const digest = readdirSync(images).find((name) => /^[0-9a-f]{64}$/.test(name));
  await using sandbox = await library.create({ rootfs: `${images}/${digest}/rootfs` });

  expect(await sandbox.run("touch", ["/new"])).toMatchObject({ exitCode: 0 });
  expect(readdirSync(`${images}/${digest}/rootfs`)).not.toContain("new");
});

test("a closed sandbox refuses calls, ends its processes and its events", async () => {
  const sandbox = await library.create();
  const process = await sandbox.spawn("sleep", ["1000"]);
  const seen = lastEvent(sandbox);
  await Promise.all([sandbox.close(), sandbox.close()]);

  await expect(process.wait()).rejects.toMatchObject({ code: "failed_precondition" });
  await expect(sandbox.run("true")).rejects.toMatchObject({ code: "failed_precondition" });
  expect(await seen).toMatchObject({ type: "closed" });
});

test("a sandbox whose time is over is closed", async () => {
  // Long enough for its creation, which is part of it.
  const timeoutMs = 5_000 + Math.round(3 * library.firstMs);
  const sandbox = await library.create({ timeoutMs });
  await expect(sandbox.run("sleep", ["1000"])).rejects.toMatchObject({ code: "deadline_exceeded" });
  await sandbox.close();
});

test("a signal ends the creation, or the sandbox", async () => {
  await expect(library.create({ signal: AbortSignal.timeout(300) })).rejects.toMatchObject({
    code: "canceled",
  });
  const controller = new AbortController();
  const sandbox = await library.create({ signal: controller.signal });
  const process = await sandbox.spawn("sleep", ["1000"]);
  controller.abort();
  await expect(process.wait()).rejects.toMatchObject({ code: "canceled" });
  await sandbox.close();
});

test("a creation that fails half-way leaves nothing", async () => {
  const failed = library.create({ mounts: [{ source: "/no/such", target: "/x" }] });

  await expect(failed).rejects.toMatchObject({ name: "CaissonError", code: "not_found" });
});

async function lastEvent(sandbox: Sandbox): Promise<SandboxEvent | undefined> {
  let last: SandboxEvent | undefined;
  for await (const event of sandbox.events) last = event;
  return last;
}
