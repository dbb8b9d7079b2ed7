import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect } from "vitest";
import { image } from "../support/cli.ts";
import { runOk } from "../support/cli-run.ts";
import { testAll } from "../support/cli-level.ts";
import { createLibrary, type Library } from "../support/library.ts";

const root = join(import.meta.dirname, "../..");

let library: Library;
beforeAll(async () => {
  library = await createLibrary();
});
afterAll(() => library[Symbol.asyncDispose]());

/** The README's example, with an image that is on this machine. */
function readmeExample(): string {
  const [, code = ""] =
    /```ts\n(import \{ Sandbox \}.*?)```/s.exec(readFileSync(join(root, "README.md"), "utf8")) ?? [];
  expect(code).toContain("docker.io/library/busybox");
  return code.replace("docker.io/library/busybox", image);
}

/** A container that another object loads, and a task of the manager. */
function containersProgram(directory: string): string {
  return `
import { mkdir } from "node:fs/promises";
import { text } from "node:stream/consumers";
import { CaissonError, Container, containerSpec, TaskManager } from "caisson";

const image = ${JSON.stringify(image)};
const root = ${JSON.stringify(directory)};
const spec = await containerSpec({ id: "c1", image, args: ["sh", "-c", "echo done; exit 3"] });
await using made = await Container.create({ id: "c1", root, image, spec });
await made.start();
const { exitCode } = await made.wait();
const found = await Container.load({ id: "c1", root });
console.log(await found.status(), exitCode, (await text(found.init.stdout)).trim());
await found.delete();

const manager = new TaskManager();
await mkdir(root + "/t1");
const task = await manager.create({
  id: "t1",
  directory: root + "/t1",
  spec: await containerSpec({ id: "t1", image, args: ["sh", "-c", "exit 5"] }),
  root: { image },
});
await task.client.start("");
console.log("task", (await task.client.wait("")).exitCode);
await task.undo[Symbol.asyncDispose]();
const missing = { id: "t2", directory: root + "/t1", spec: {}, root: { image: "oci:/nonexistent" } };
const failed = await manager.create(missing).catch((error: unknown) => error);
if (!(failed instanceof CaissonError) || failed.code !== "not_found") throw failed;
`;
}

testAll(
  "the packed library, installed in a new project, runs the README's example under strict types",
  async () => {
    const project = library.dir.join("project");
    mkdirSync(join(project, "node_modules/@types"), { recursive: true });
    const cwd = { cwd: project };
    await runOk(["npm", "pack", "--silent", "--pack-destination", library.dir.path], { cwd: root });
    const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string };
    writeFileSync(join(project, "package.json"), JSON.stringify({ type: "module", private: true }));
    const install = [
      "npm",
      "install",
      "--offline",
      "--no-audit",
      "--no-fund",
      library.dir.join(`caisson-${version}.tgz`),
    ];
    await runOk(install, cwd);
    for (const name of ["@types/node", "undici-types"]) {
      symlinkSync(join(root, "node_modules", name), join(project, "node_modules", name));
    }
    writeFileSync(join(project, "example.ts"), readmeExample());
    writeFileSync(join(project, "containers.ts"), containersProgram(library.dir.join("containers")));
    const options = {
      strict: true,
      module: "nodenext",
      target: "es2022",
      lib: ["es2022", "esnext.disposable"],
      types: ["node"],
    };
    writeFileSync(
      join(project, "tsconfig.json"),
      JSON.stringify({ compilerOptions: options, files: ["example.ts", "containers.ts"] }),
    );

    await runOk([process.execPath, join(root, "node_modules/typescript/bin/tsc")], cwd);
    const { stdout } = await runOk([process.execPath, "example.js"], { ...cwd, env: library.env });
    expect(stdout).toBe("0 42\n");
    const containers = await runOk([process.execPath, "containers.js"], { ...cwd, env: library.env });
    expect(containers.stdout).toBe("stopped 3 done\ntask 5\n");
    // The command line comes along.
    await runOk([join(project, "node_modules/.bin/caisson"), "--version"], {
      env: { CAISSON_NODE: process.execPath },
    });
  },
);
