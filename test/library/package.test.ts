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
    const options = {
      strict: true,
      module: "nodenext",
      target: "es2022",
      lib: ["es2022", "esnext.disposable"],
      types: ["node"],
    };
    writeFileSync(
      join(project, "tsconfig.json"),
      JSON.stringify({ compilerOptions: options, files: ["example.ts"] }),
    );

    await runOk([process.execPath, join(root, "node_modules/typescript/bin/tsc")], cwd);
    const { stdout } = await runOk([process.execPath, "example.js"], { ...cwd, env: library.env });
    expect(stdout).toBe("0 42\n");
    // The command line comes along.
    await runOk([join(project, "node_modules/.bin/caisson"), "--version"], {
      env: { CAISSON_NODE: process.execPath },
    });
  },
);
