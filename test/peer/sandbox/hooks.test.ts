import { readFile, readlink } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { createNetns, removeNetns } from "../../../src/network/netns.ts";
import type { Spec, SpecHooks } from "../../../src/oci/spec.ts";
import { ContainerHooks } from "../../../src/sandbox/hooks.ts";
import { createTempDir } from "../../support/temp-dir.ts";

const signal = AbortSignal.timeout(60_000);

function specWith(hooks: SpecHooks): Spec {
  return { ociVersion: "1.2.0", root: { path: "rootfs" }, annotations: { a: "b" }, hooks };
}

function shell(script: string, more: { env?: string[]; timeout?: number } = {}) {
  return { path: "/bin/sh", args: ["sh", "-c", script], ...more };
}

function hooksOf(spec: Spec, netnsPath = "/proc/self/ns/net"): ContainerHooks {
  return new ContainerHooks({ containerId: "c1", bundle: "/bundle" }, spec, { pid: 42, netnsPath });
}

test("prestart and createRuntime get the state on stdin, their environment only, and run in that order", async () => {
  await using dir = createTempDir();
  const spec = specWith({
    createRuntime: [
      shell(`cat > ${dir.path}/state; env > ${dir.path}/env; echo second >> ${dir.path}/order`, {
        env: ["NAME=value"],
      }),
    ],
    prestart: [shell(`echo first >> ${dir.path}/order`)],
  });

  await hooksOf(spec).beforeCreate(signal);

  expect(JSON.parse(await readFile(join(dir.path, "state"), "utf8"))).toEqual({
    ociVersion: "1.2.0",
    id: "c1",
    status: "creating",
    pid: 42,
    bundle: "/bundle",
    annotations: { a: "b" },
  });
  const environment = (await readFile(join(dir.path, "env"), "utf8")).trim().split("\n");
  expect(environment.filter((line) => !/^(PWD|SHLVL|_|OLDPWD)=/.test(line))).toEqual(["NAME=value"]);
  expect(await readFile(join(dir.path, "order"), "utf8")).toBe("first\nsecond\n");
});

test("hooks run in the sandbox's network namespace", async () => {
  await using dir = createTempDir();
  const netns = join(dir.path, "netns");
  await createNetns(netns, { signal });
  try {
    await hooksOf(
      specWith({ poststart: [shell(`readlink /proc/self/ns/net > ${dir.path}/seen`)] }),
      netns,
    ).afterStart();
  } finally {
    await removeNetns(netns);
  }

  const seen = (await readFile(join(dir.path, "seen"), "utf8")).trim();
  expect(seen).toMatch(/^net:\[\d+\]$/);
  expect(seen).not.toBe(await readlink("/proc/self/ns/net"));
});

test("a hook finds its first argument as its own name", async () => {
  await using dir = createTempDir();
  const script = `echo $0 > ${dir.path}/name`;

  await hooksOf(specWith({ prestart: [{ path: "/bin/sh", args: ["setkey", "-c", script] }] })).beforeCreate(
    signal,
  );

  expect(await readFile(join(dir.path, "name"), "utf8")).toBe("setkey\n");
});

test("a hook that fails stops the row and is named with its last words", async () => {
  await using dir = createTempDir();
  const spec = specWith({ prestart: [shell("echo no luck >&2; exit 3"), shell(`touch ${dir.path}/ran`)] });

  await expect(hooksOf(spec).beforeCreate(signal)).rejects.toMatchObject({
    code: "internal",
    message: 'Cannot run prestart hook "/bin/sh": exit code 3, "no luck"',
  });
  await expect(readFile(join(dir.path, "ran"))).rejects.toThrow("ENOENT");
});

test("a hook that does not end is killed with its children at its time limit", async () => {
  await using dir = createTempDir();
  const spec = specWith({
    poststop: [shell(`sleep 600 & echo $! > ${dir.path}/child; wait`, { timeout: 1 })],
  });

  await expect(hooksOf(spec).afterDelete()).rejects.toMatchObject({ code: "deadline_exceeded" });
  const child = (await readFile(join(dir.path, "child"), "utf8")).trim();
  await expect
    .poll(() =>
      readFile(`/proc/${child}/stat`, "latin1").then(
        (stat) => / Z /.test(stat),
        () => true,
      ),
    )
    .toBe(true);
});

test("a hook that is missing is said so", async () => {
  const spec = specWith({ prestart: [{ path: "/no/such/hook" }] });

  await expect(hooksOf(spec).beforeCreate(signal)).rejects.toMatchObject({ code: "internal" });
});
