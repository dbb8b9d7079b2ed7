import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import { run, start } from "../../support/cli-run.ts";
import { createTempDir, type TempDir } from "../../support/temp-dir.ts";

const deploy = join(import.meta.dirname, "../../../deploy");
const script = join(deploy, "kubernetes/node");

/** A root directory that looks like a node's to the script, whose "restart of containerd" appends a line to a file. */
function makeNode(dir: TempDir, config: string | undefined) {
  const put = (path: string, content = "") => {
    mkdirSync(dirname(dir.join(path)), { recursive: true });
    writeFileSync(dir.join(path), content, { mode: 0o755 });
  };
  for (const program of ["qemu-system-x86_64", "ip", "tc", "setpriv", "nsenter", "containerd"])
    put(`host/usr/bin/${program}`);
  mkdirSync(dir.join("host/etc/containerd"), { recursive: true });
  if (config !== undefined) put("host/etc/containerd/config.toml", config);
  put("image/caisson/bin/containerd-shim-caisson-v2", "shim");
  for (const version of [2, 3]) {
    const name = `containerd/caisson-v${version}.toml`;
    put(`image/${name}`, readFileSync(join(deploy, name), "utf8"));
  }
  const env = {
    CAISSON_HOST: dir.join("host"),
    CAISSON_SOURCE: dir.join("image"),
    CAISSON_RESTART: `echo restarted >>${dir.join("restarts")}`,
  };
  const read = (path: string) =>
    existsSync(dir.join(path)) ? readFileSync(dir.join(path), "utf8") : undefined;
  return {
    read,
    put,
    env,
    config: () => read("host/etc/containerd/config.toml"),
    run: (action: string) => run([script, action], { env }),
    restarts: () => read("restarts")?.split("\n").length ?? 0,
  };
}

const shim = "host/usr/lib/caisson/bin/containerd-shim-caisson-v2";
const dropIn = "host/etc/containerd/conf.d/caisson.toml";

test.for([
  { name: "2, without runc", config: "version = 2\n[debug]\nlevel = 'info'\n", hasRunc: false },
  {
    name: "2, with runc",
    config: 'version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]\n',
    hasRunc: true,
  },
])("install appends to a configuration of version $name; remove leaves it as it was", async (row) => {
  await using dir = createTempDir();
  const node = makeNode(dir, row.config);

  expect(await node.run("install")).toMatchObject({ exitCode: 0, stderr: "" });
  expect(await node.run("install")).toMatchObject({ exitCode: 0 });
  expect(node.read(shim)).toBe("shim");
  expect(node.config()?.match(/runtimes\.caisson\]/g)).toHaveLength(1);
  expect(node.config()?.match(/^ *\[.*runtimes\.runc\]/gm)).toHaveLength(1);
  expect(node.restarts()).toBeGreaterThan(1);

  expect(await node.run("remove")).toMatchObject({ exitCode: 0, stderr: "" });
  expect(node.config()).toBe(row.config);
  expect(existsSync(dir.join("host/usr/lib/caisson"))).toBe(false);
  expect(existsSync(dir.join("host/usr/bin/containerd-shim-caisson-v2"))).toBe(false);
});

test.for([
  { name: "of version 3", config: "version = 3\n\n[grpc]\nuid = 0\n" },
  { name: "that imports conf.d", config: "version = 3\nimports = ['/etc/containerd/conf.d/*.toml']\n" },
  { name: "that is not there", config: undefined },
])("install imports a file into a configuration $name; remove leaves it as it was", async ({ config }) => {
  await using dir = createTempDir();
  const node = makeNode(dir, config);

  expect(await node.run("install")).toMatchObject({ exitCode: 0, stderr: "" });
  expect(node.config()?.match(/^imports = .*conf\.d/gm)).toHaveLength(1);
  expect(node.read(dropIn)).toContain('sandboxer = "shim"');

  expect(await node.run("remove")).toMatchObject({ exitCode: 0, stderr: "" });
  expect(node.config()).toBe(config);
  expect(existsSync(dirname(dir.join(dropIn)))).toBe(false);
});

test.for([
  { name: "imports other files", config: "version = 3\nimports = ['/other.toml']\n", want: /add ".*conf\.d/ },
  { name: "has version 1", config: "[grpc]\n", want: /version 1, 2 or newer is needed/ },
])("install refuses a configuration that $name", async ({ config, want }) => {
  await using dir = createTempDir();
  const node = makeNode(dir, config);
  const outcome = await node.run("install");

  expect(outcome.exitCode).toBe(1);
  expect(outcome.stderr).toMatch(want);
});

test("remove leaves the files while sandboxes run", async () => {
  await using dir = createTempDir();
  const node = makeNode(dir, "version = 3\n");
  await node.run("install");
  node.put("host/run/caisson/k8s.io/s1/journal");
  const outcome = await node.run("remove");

  expect(outcome.exitCode).toBe(1);
  expect(outcome.stderr).toContain("sandboxes run on this node");
  expect(node.read(shim)).toBe("shim");
});

test("run installs, and removes at SIGTERM", async () => {
  await using dir = createTempDir();
  const node = makeNode(dir, "version = 3\n");
  await using running = start([script, "run"], { env: node.env });
  const installed = new Promise<void>((resolve) =>
    running.stdout.on("data", (text: Buffer) => text.includes("installed") && resolve()),
  );
  await installed;
  expect(node.read(shim)).toBe("shim");

  running.child.kill("SIGTERM");
  expect(await running.ended).toMatchObject({ exitCode: 0 });
  expect(node.read(shim)).toBeUndefined();
});
