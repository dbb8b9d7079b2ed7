import { existsSync, writeFileSync } from "node:fs";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { buildPath } from "../support/cli-build.ts";
import { run } from "../support/cli-run.ts";
import { type Containerd, isCaisson, startContainerd } from "../support/containerd.ts";
import { busyboxReference } from "../support/containerd-image.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { vmmPathSetting } from "../support/suite-settings.ts";
import { patient } from "../support/patience.ts";

/** How a container ends that prints "works"; stderr too, so that it is shown where it is not so. */
const works = { exitCode: 0, stdout: "works\n", stderr: "" };

const shim = buildPath("bin/containerd-shim-caisson-v2");

let containerd: Containerd;
beforeAll(async () => {
  containerd = await startContainerd();
});
afterAll(() => containerd[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => containerd.leakScope(), { cleanUp: () => containerd.removeAll() });

const runIn = (name: string, ...flags: string[]) =>
  containerd.ctr(containerd.runArgs(["--rm", ...flags], containerd.id(name), "echo", "works"), {
    timeoutMs: 120_000,
  });

test.for(["../x", "a/b", "-x", "a..b", ".", "x".repeat(77)])("the id %s is refused", async (id) => {
  const result = await containerd.ctr(containerd.runArgs(["--rm"], id, "true"));

  expect(result.exitCode).not.toBe(0);
});

describe.skipIf(!isCaisson)("what is wrong with the sandbox (needs io.containerd.caisson.v2)", () => {
  let failures = 0;
  afterEach(async () => {
    // After every kind of failure the same id works.
    expect(await runIn(`failure-${failures++}`)).toMatchObject(works);
  });

  const dying = () => {
    const path = containerd.dir.join("dying-vmm");
    writeFileSync(path, "#!/bin/sh\necho these are my last words >&2\nexit 3\n", { mode: 0o755 });
    return path;
  };
  const cases = [
    { name: "a missing VMM", config: () => `${vmmPathSetting} = "/no/such/vmm"`, message: /\/no\/such\/vmm/ },
    {
      name: "a VMM that dies at start",
      config: () => `${vmmPathSetting} = "${dying()}"`,
      message: /these are my last words/,
    },
    {
      name: "a missing kernel",
      config: () => 'kernel_path = "/no/such/vmlinux"',
      message: /\/no\/such\/vmlinux/,
    },
    {
      name: "a missing virtiofsd",
      config: () => 'virtiofsd_path = "/no/such/virtiofsd"',
      message: /\/no\/such\/virtiofsd/,
    },
    { name: "a guest that is never ready", config: () => "boot_timeout_ms = 150", message: /150 ms/ },
    { name: "an unknown setting", config: () => "no_such_setting = 1", message: /no_such_setting/ },
    { name: "a setting out of range", config: () => "default_memory_mib = 1", message: /default_memory_mib/ },
  ];
  test.for(cases)("$name: the error names it", async ({ config, message }) => {
    using _configured = containerd.configure(config());
    const result = await runIn(`failure-${failures}`);

    expect(result.exitCode).not.toBe(0);
    expect(result.stderr).toMatch(message);
    expect(result.stdout).toBe("");
  });

  test("a spec without a process: the error says so", async () => {
    const spec = containerd.dir.join("spec.json");
    writeFileSync(spec, JSON.stringify({ ociVersion: "1.1.0", root: { path: "rootfs" }, linux: {} }));
    const id = containerd.id(`failure-${failures}`);
    const argv = containerd
      .runArgs(["--rm", "--config", spec], id)
      .filter((argument) => argument !== busyboxReference);
    const result = await containerd.ctr(argv);

    expect(result.exitCode).not.toBe(0);
    expect(result.stderr).toMatch(/process/);
  });
});

describe.skipIf(!isCaisson)("the shim's executable (needs build/bin/containerd-shim-caisson-v2)", () => {
  const start = (namespace: string, id: string, ...action: string[]) =>
    run(
      [
        shim,
        "-namespace",
        namespace,
        "-address",
        containerd.dir.join("containerd.sock"),
        "-id",
        id,
        ...action,
      ],
      {
        cwd: containerd.dir.path,
        env: {
          TTRPC_ADDRESS: containerd.dir.join("containerd.sock.ttrpc"),
          CAISSON_CONFIG: containerd.dir.join("caisson.toml"),
        },
        timeoutMs: 30_000,
      },
    );
  const bad = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/x",
    "-x",
    "x-",
    "a..b",
    "a\nb",
    "a b",
    "x".repeat(77),
    "ａ",
    "%2e%2e",
    "__proto__",
  ];

  test.for(bad)("start with id %j is refused", async (id) => {
    const result = await start(containerd.namespace, id, "start");

    expect(result.exitCode).not.toBe(0);
    expect(result.stdout + result.stderr).toMatch(/id/);
    expect(existsSync(containerd.dir.join("address"))).toBe(false);
  });

  test("start with a bad namespace is refused", async () => {
    expect((await start("../x", containerd.id("x"), "start")).exitCode).not.toBe(0);
  });

  test("delete of a sandbox that never was answers, and twice", async () => {
    for (let round = 0; round < 2; round++) {
      const result = await start(containerd.namespace, containerd.id("never"), "delete");
      expect(result).toMatchObject({ exitCode: 0 });
      expect(result.durationMs).toBeLessThan(patient(5_000));
    }
  });

  test("-v and -info answer without anything else", async () => {
    const [version, info] = await Promise.all([run([shim, "-v"]), run([shim, "-info"])]);

    expect(version).toMatchObject({ exitCode: 0 });
    expect(version.stdout).toMatch(/\d+\.\d+\.\d+/);
    expect(info).toMatchObject({ exitCode: 0 });
    expect(info.stdout).toContain("io.containerd.caisson.v2");
  });
});
