import { createReadStream, mkdirSync } from "node:fs";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Cli, createCli, image } from "../support/cli.ts";
import { type Digest, digest, mebibyte, writeRandomFile } from "../support/cli-bytes.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";

const timeoutMs = 240_000;

let cli: Cli;
let big: Digest;
let small: Digest;
beforeAll(async () => {
  cli = await createCli();
  mkdirSync(cli.dir.join("random"));
  big = writeRandomFile(cli.dir.join("random/big"), 64 * mebibyte);
  small = writeRandomFile(cli.dir.join("random/small"), 5 * mebibyte + 13);
});
afterAll(() => cli[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => cli.leakScope(), { cleanUp: () => cli.removeAll() });

/** Starts a container that sees the random files at /random. */
const start = (flags: string[], ...command: string[]) =>
  cli.start(["run", "--rm", "-v", `${cli.dir.join("random")}:/random:ro`, ...flags, image, ...command], {
    timeoutMs,
  });

test("64 MiB of stdout arrive exactly, although the process ends right after its last write", async () => {
  await using run = start([], "cat", "/random/big");
  const [stdout, stderr] = await Promise.all([digest(run.stdout), text(run.stderr)]);

  expect({ stdout, stderr }).toEqual({ stdout: big, stderr: "" });
  expect(await run.ended).toMatchObject({ exitCode: 0 });
});

test("a slow reader gets every byte", async () => {
  await using run = start([], "cat", "/random/big");
  const [stdout] = await Promise.all([digest(run.stdout, 150), digest(run.stderr)]);

  expect(stdout).toEqual(big);
  expect(await run.ended).toMatchObject({ exitCode: 0 });
});

test("stdout and stderr at the same time do not disturb each other", async () => {
  await using run = start([], "sh", "-c", "cat /random/small & cat /random/big >&2; wait; exit 7");
  const [stdout, stderr] = await Promise.all([digest(run.stdout), digest(run.stderr)]);

  expect({ stdout, stderr }).toEqual({ stdout: small, stderr: big });
  expect(await run.ended).toMatchObject({ exitCode: 7 });
});

test("64 MiB of stdin arrive exactly, and the end of file too", async () => {
  await using run = start(["-i"], "cat");
  createReadStream(cli.dir.join("random/big")).pipe(run.stdin);
  const [stdout] = await Promise.all([digest(run.stdout), digest(run.stderr)]);

  expect(stdout).toEqual(big);
  expect(await run.ended).toMatchObject({ exitCode: 0 });
});

test("stdin: an end of file without a byte, and none at all without -i", async () => {
  const results = [
    await cli.run(["run", "--rm", "-i", image, "sh", "-c", "wc -c; exit 9"], { timeoutMs }),
    await cli.run(["run", "--rm", image, "wc", "-c"], { input: "not passed on", timeoutMs }),
  ];

  expect(results[0]).toMatchObject({ exitCode: 9, stdout: "0\n" });
  expect(results[1]).toMatchObject({ exitCode: 0, stdout: "0\n" });
});

test("a process that never reads its stdin ends all the same", async () => {
  await using run = start(["-i"], "echo", "over");
  createReadStream(cli.dir.join("random/big")).pipe(run.stdin);

  expect(await text(run.stdout)).toBe("over\n");
  expect(await run.ended).toMatchObject({ exitCode: 0 });
});

test("a reader that goes away ends the command line, and nothing is left", async () => {
  await using run = start([], "yes");
  await new Promise((resolve) => run.stdout.once("data", resolve));
  run.stdout.destroy();
  const end = await run.ended;

  expect(end.timedOut).toBe(false);
  expect(end.exitCode).not.toBe(0);
});
