import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { image } from "../support/cli.ts";
import { requireFiles } from "../support/cli-build.ts";
import { run } from "../support/cli-run.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { createLibrary, type Library } from "../support/library.ts";

const root = join(import.meta.dirname, "../..");

let library: Library;
beforeAll(async () => {
  requireFiles(join(root, "build/dist/index.js"));
  library = await createLibrary();
});
afterAll(() => library[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => library.leakScope());

const example = (name: string, ...args: string[]) =>
  run([process.execPath, "--no-warnings", join(root, "examples", name), image, ...args], {
    env: library.env,
  });

test("untrusted-code.ts stops what takes too long, and keeps its output", async () => {
  expect(await example("untrusted-code.ts")).toMatchObject({
    exitCode: 0,
    stdout: "working\nstopped: deadline_exceeded\n",
  });
});

test("untrusted-code.ts shows how a script ended, and bounds its memory", async () => {
  const script = "echo begin; exec dd if=/dev/zero of=/dev/null bs=150M count=1";

  expect((await example("untrusted-code.ts", script)).stdout).toBe("begin\nended with exit code 137\n");
});

test("interpreter-session.ts keeps variables, functions and directory", async () => {
  expect(await example("interpreter-session.ts")).toMatchObject({
    exitCode: 0,
    stdout: "40 /tmp state\nthe session ended with exit code 0\n",
  });
});

test("parallel-sandboxes.ts gives each task a sandbox of its own", async () => {
  expect(await example("parallel-sandboxes.ts")).toMatchObject({
    exitCode: 0,
    stdout: "one, 1 file\ntwo, 1 file\nthree, 1 file\nfour, 1 file\n",
  });
});
