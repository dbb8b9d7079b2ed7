import { mkdirSync, readdirSync } from "node:fs";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Container, type ContainerConfig, containerSpec } from "../../src/index.ts";
import { emptyImageConfig } from "../../src/image/config.ts";
import { buildSpec } from "../../src/image/spec.ts";
import { image } from "../support/cli.ts";
import { mountsBelow } from "../support/temp-dir.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { createLibrary, type Library } from "../support/library.ts";

let library: Library;
beforeAll(async () => {
  library = await createLibrary();
  mkdirSync(library.dir.join("containers"));
  // What a runtime keeps on purpose is there from its first container on.
  await (await Container.create(configOf("first", ["true"]))).delete();
});
afterAll(() => library[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => library.leakScope());

const root = () => library.dir.join("containers");

/** The demo image below a layer of the container's own, made by the mount manager's means. */
function configOf(name: string, args: readonly string[]): ContainerConfig {
  const id = `${library.dir.token}-${name}`;
  const images = library.dir.join("data/images");
  const digest = readdirSync(images).find((entry) => /^[0-9a-f]{64}$/.test(entry));
  const own = `${root()}/${id}`;
  return {
    id,
    root: root(),
    spec: buildSpec({
      containerId: id,
      image: emptyImageConfig,
      args,
      env: ["OWN=yes"],
      volumes: [],
      user: { uid: 0, gid: 0, additionalGids: [] },
      terminal: false,
      workingDirectory: "/tmp",
      cpus: undefined,
      memoryBytes: undefined,
    }),
    rootfs: [
      { type: "bind", source: `${images}/${digest}/rootfs`, target: "", options: ["rbind", "ro"] },
      {
        type: "format/mkdir/overlay",
        source: "overlay",
        target: "",
        options: [
          `X-containerd.mkdir.path=${own}/upper:0755`,
          `X-containerd.mkdir.path=${own}/work`,
          "lowerdir={{ mount 0 }}",
          `upperdir=${own}/upper`,
          `workdir=${own}/work`,
        ],
      },
    ],
  };
}

test("create, start, streams, newProcess, wait, delete", async () => {
  const container = await Container.create(
    configOf("whole", ["sh", "-c", "read line; echo got $line; exit 7"]),
  );
  expect(await container.status()).toBe("created");
  await container.start();
  const added = await container.newProcess({
    args: ["sh", "-c", "echo $OWN $PWD; echo err >&2"],
    stdin: false,
  });
  const output = Promise.all([text(added.stdout), text(added.stderr)]);
  await added.start();

  expect(await added.wait()).toEqual({ exitCode: 0 });
  expect(await output).toEqual(["yes /tmp\n", "err\n"]);
  await added.delete();
  const said = text(container.init.stdout);
  container.init.stdin.write("hello\n");
  expect(await container.wait()).toEqual({ exitCode: 7 });
  expect(await said).toBe("got hello\n");
  expect(container.pid).toBeGreaterThan(0);
  await container.delete();
  expect(readdirSync(root())).toEqual([]);
});

test("containerSpec: a container of an image, with environment, directory, user, mounts and limits", async () => {
  const id = `${library.dir.token}-spec`;
  const shared = library.dir.join("shared");
  mkdirSync(shared);
  const script = "echo $OWN $PWD; id -u; cat /sys/fs/cgroup/pids.max; touch /shared/x || echo read-only";
  const spec = await containerSpec({
    id,
    image,
    args: ["sh", "-c", script],
    env: { OWN: "yes" },
    cwd: "/tmp",
    user: "1000:1000",
    mounts: [{ source: shared, target: "/shared", readOnly: true }],
    limits: { memoryMiB: 64, pids: 50 },
  });
  const container = await Container.create({ id, root: root(), spec, image });
  const output = text(container.init.stdout);
  await container.start();

  expect(await container.wait()).toEqual({ exitCode: 0 });
  expect(await output).toBe("yes /tmp\n1000\n50\nread-only\n");
  await container.delete();
});

test.for([
  { what: "an option that is none", options: { memoryMiB: 5 } },
  { what: "a bad id", options: { id: "../x" } },
  { what: "an unknown user", options: { user: "nobody-there" } },
  { what: "an image that is not there", options: { image: "oci:/no/such" }, code: "not_found" },
])("containerSpec refuses $what", async ({ options, code = "invalid_argument" }) => {
  const failed = containerSpec({ id: "refused", image, args: ["true"], ...options });

  await expect(failed).rejects.toMatchObject({ name: "CaissonError", code });
});

test("load after its end: the output is there, with its end", async () => {
  const script = "echo out; echo err >&2; exit 4";
  await using container = await Container.create(configOf("ended", ["sh", "-c", script]));
  await container.start();
  expect(await container.wait()).toEqual({ exitCode: 4 });

  const found = await Container.load({ id: container.id, root: root() });

  expect(await Promise.all([text(found.init.stdout), text(found.init.stderr)])).toEqual(["out\n", "err\n"]);
  await found.delete();
});

test("load: another owner finds the container with its processes and goes on with their output", async () => {
  const config = configOf("loaded", ["sh", "-c", "echo first; read x; echo second; exec sleep 1000"]);
  await using first = await Container.create(config);
  await first.start();
  const added = await first.newProcess({ args: ["sleep", "1000"] });
  await added.start();
  // What it has not read is there for the next one.
  await first[Symbol.asyncDispose]();

  const second = await Container.load({ id: config.id, root: root() });
  expect(second.spec).toEqual(config.spec);
  expect(second.processes.map(({ id }) => id)).toEqual([added.id]);
  expect(await second.status()).toBe("running");
  const lines = second.init.stdout[Symbol.asyncIterator]();
  second.init.stdin.write("go\n");
  let seen = "";
  while (!seen.endsWith("second\n")) seen += String((await lines.next()).value);
  expect(seen).toBe("first\nsecond\n");
  await second.processes[0]?.signal("SIGKILL");
  expect(await second.processes[0]?.wait()).toEqual({ exitCode: 137 });
  await expect(second.delete()).rejects.toMatchObject({ code: "failed_precondition" });
  await second.delete({ force: true });
  expect(readdirSync(root())).toEqual([]);
  await expect(Container.load({ id: config.id, root: root() })).rejects.toMatchObject({ code: "not_found" });
});

test("a creation that fails at its last step leaves nothing, its mounts included", async () => {
  const failed = Container.create(configOf("failed", ["/no/such/command"]));

  await expect(failed).rejects.toMatchObject({ code: "invalid_argument" });
  expect(mountsBelow(root())).toEqual([]);
  expect(readdirSync(root())).toEqual([]);
});
