import { readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { expect, test } from "vitest";
import { startOnPty } from "../support/cli-pty.ts";
import { run, start } from "../support/cli-run.ts";
import { labImage } from "../support/lab.ts";

const root = resolve(import.meta.dirname, "../..");
const image = labImage();
const isEverything = process.env["CAISSON_TEST_LEVEL"] === "all";
const bootTimeoutMs = 300_000;

const directories = () => readdirSync(tmpdir()).filter((name) => name.startsWith("caisson-lab-"));

test("make lab shows what the lab has, and leaves nothing", async (context) => {
  if (image.tag === "missing") context.skip(image.reason);
  if (!isEverything) context.skip("long case: make test-lab runs it");
  const before = directories();

  const result = await run(["make", "--directory", root, "lab"], { timeoutMs: bootTimeoutMs });

  expect(result, result.stderr).toMatchObject({
    exitCode: 0,
    stdout: expect.stringMatching(/^KVM .*\/dev\/kvm$/m) as string,
  });
  expect(directories()).toEqual(before);
});

test("make lab-shell gives a prompt on a host with KVM, and leaves nothing", async (context) => {
  if (image.tag === "missing") context.skip(image.reason);
  const before = directories();
  await using pty = startOnPty(`make --directory ${root} lab-shell`, { timeoutMs: bootTimeoutMs });

  await pty.shows(/root@lab:.*# /, bootTimeoutMs);
  pty.type("test -c /dev/kvm && echo there-is-$((40 + 2))\n");
  await pty.shows(/there-is-42/);
  pty.type("exit\n");

  expect(await pty.exitCode).toBe(0);
  expect(directories()).toEqual(before);
});

test("make lab that is interrupted ends the lab, and leaves nothing", async (context) => {
  if (image.tag === "missing") return context.skip(image.reason);
  if (!isEverything) context.skip("long case: make test-lab runs it");
  const before = directories();
  const main = join(root, "test/lab/main.ts");
  await using lab = start([process.execPath, "--no-warnings", main, "check", image.path]);
  await expect.poll(() => directories().length, { timeout: 30_000 }).toBeGreaterThan(before.length);

  lab.child.kill("SIGINT");

  expect(await lab.ended).toMatchObject({ exitCode: 130, timedOut: false });
  expect(directories()).toEqual(before);
});
