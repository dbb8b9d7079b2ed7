import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createPod, joinedNamespaces, type Pod, type PodContainer } from "../support/model-pod.ts";

let pod: Pod;
let first: PodContainer;
beforeAll(async () => {
  pod = createPod();
  // As containerd makes it for a pod.
  mkdirSync(pod.dir.join("shm"));
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=8m,mode=1777", "shm", pod.dir.join("shm")]);
  writeFileSync(pod.dir.join("shm/of-the-host"), "");
  first = await pod.start("", { mounts: [shm()] });
});
afterAll(() => pod[Symbol.asyncDispose]());

const shm = () => ({
  destination: "/dev/shm",
  type: "bind",
  source: pod.dir.join("shm"),
  options: ["rbind", "rprivate", "rw"],
});
const sharing = (...types: string[]) => ({
  mounts: [shm()],
  namespaces: joinedNamespaces(pod.sandbox, types),
});

test("/dev/shm of a pod is one tmpfs of the guest, as large as the host's, for all its containers", async () => {
  const a = await pod.start("shm-a", sharing("ipc", "uts"));
  const b = await pod.start("shm-b", sharing("ipc", "uts"));

  await a.sh("echo shared >/dev/shm/file");
  const seen = await b.sh("cat /dev/shm/file; ls /dev/shm; df -m /dev/shm; grep ' /dev/shm ' /proc/mounts");

  expect(seen.output).toMatch(/^shared\nfile\n/);
  expect(seen.output).toMatch(/\s8\s+\d+\s+\d+\s+\d+% \/dev\/shm/);
  expect(seen.output).toMatch(/ \/dev\/shm tmpfs rw,nosuid,nodev,noexec/);
  expect(await b.sh("dd if=/dev/zero of=/dev/shm/big bs=1M count=9 2>&1; rm /dev/shm/big")).toMatchObject({
    output: expect.stringContaining("No space left"),
  });
  await a.remove();
  await b.remove();
});

test("IPC and UTS namespaces of the sandbox are joined, others are the container's own", async () => {
  const app = await pod.start("joins", sharing("ipc", "uts"));
  const own = await pod.start("own", sharing());
  const links = "for name in ipc uts pid; do readlink /proc/self/ns/$name; done";

  const ofFirst = (await first.sh(links)).output.split("\n");
  const joined = (await app.sh(links)).output.split("\n");
  const apart = (await own.sh(links)).output.split("\n");

  expect(joined.slice(0, 2)).toEqual(ofFirst.slice(0, 2));
  expect(joined[2]).not.toBe(ofFirst[2]);
  expect(apart.some((link, index) => link !== "" && link === ofFirst[index])).toBe(false);
  await app.remove();
  await own.remove();
});

test("a shared PID namespace: processes of the others are seen, and one container's end leaves them alone", async () => {
  const a = await pod.start("pid-a", sharing("pid", "ipc"));
  const b = await pod.start("pid-b", sharing("pid", "ipc"));

  expect((await a.sh("ps | grep -c '[s]leep 100000'")).output).toBe("3\n");
  expect((await a.sh("cat /proc/1/comm")).output).toBe("sleep\n");
  await a.sh("sleep 5000 & :");
  await a.remove();
  expect((await b.sh("ps | grep -c '[s]leep'")).output).toBe("2\n");
  await b.remove();
});

test("the namespace of something else than the sandbox is refused, and nothing is left", async () => {
  const path = `/proc/${process.pid}/ns/ipc`;
  const namespaces = joinedNamespaces(pod.sandbox, []).map((entry) =>
    entry.type === "ipc" ? { type: "ipc", path } : entry,
  );

  await expect(pod.start("foreign", { namespaces })).rejects.toMatchObject({
    code: "invalid_argument",
    message: expect.stringContaining(path),
  });
});

test("when the sandbox's own container ends, the rest of its PID namespace does, and no other can join", async () => {
  const app = await pod.start("orphan", sharing("pid"));
  const apart = await pod.start("apart", sharing("ipc"));

  await first.remove();

  expect(await app.container.init.wait()).toMatchObject({ exitCode: 137 });
  await expect(pod.start("late", sharing("pid"))).rejects.toMatchObject({
    code: "failed_precondition",
    message: expect.stringContaining("first process has ended"),
  });
  const late = await pod.run("late-ipc", "readlink /proc/self/ns/ipc", sharing("ipc"));
  expect(late.output).toBe((await apart.sh("readlink /proc/self/ns/ipc")).output);
});

test("a sandbox without a container of its own shares the guest's namespaces, a PID namespace and memory", async () => {
  await using bare = createPod();
  const a = await bare.start("first");
  const shared = () => ({ namespaces: joinedNamespaces(bare.sandbox, ["pid", "ipc", "uts"]) });
  // As the CRI plugin writes it then: containerd's default, a tmpfs of the container's own.
  const b = await bare.start("b", shared());
  const c = await bare.start("c", { ...shared(), withoutMounts: ["/dev/shm"] });
  const links = "for name in ipc uts pid; do readlink /proc/self/ns/$name; done";

  expect((await b.sh(links)).output).toBe((await c.sh(links)).output);
  expect((await b.sh(links)).output).not.toBe((await a.sh(links)).output);
  await b.sh("echo met >/dev/shm/file; sleep 3000 & :");
  expect((await c.sh("cat /dev/shm/file; df -m /dev/shm | tail -1")).output).toMatch(/^met\n\S+\s+64\s/);
  expect((await c.sh("ps | grep -c '[s]leep'")).output).toBe("3\n");
  // Nothing is left of a container when it goes, its orphans included.
  await b.remove();
  expect((await c.sh("ps | grep -c '[s]leep'")).output).toBe("1\n");
});
