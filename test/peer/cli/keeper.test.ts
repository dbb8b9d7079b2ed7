import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { hasKeeper, type Keeper, keeperGone, takeKeeper } from "../../../src/cli/keeper.ts";
import { createTempDir } from "../../support/temp-dir.ts";

async function take(directory: string): Promise<Keeper> {
  const keeper = await takeKeeper(directory);
  if (keeper === undefined) throw new Error("the directory is gone");
  return keeper;
}

test("one at a time; the next one comes when the first lets go", async () => {
  await using directory = createTempDir();
  const order: string[] = [];
  const first = await take(directory.path);
  const others = [1, 2, 3].map(async (number) => {
    const keeper = await take(directory.path);
    order.push(`taken ${number}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
    order.push(`given ${number}`);
    await keeper[Symbol.asyncDispose]();
  });
  const gone = keeperGone(directory.path).then(() => order.push("gone"));
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(order).toEqual([]);
  expect(await hasKeeper(directory.path)).toBe(true);
  await first[Symbol.asyncDispose]();
  await Promise.all([...others, gone]);
  // Taken and given back in pairs.
  const pairs = order.filter((entry) => entry !== "gone");
  for (let index = 0; index < pairs.length; index += 2) {
    expect(pairs[index + 1]).toBe(pairs[index]?.replace("taken", "given"));
  }
  expect(pairs).toHaveLength(6);
  expect(await hasKeeper(directory.path)).toBe(false);
  expect(readdirSync(directory.path)).toEqual([]);
});

test("a long path, a missing directory, a directory that goes away, an abort", async () => {
  await using directory = createTempDir();
  const long = directory.join("x".repeat(100), "y".repeat(76));
  mkdirSync(long, { recursive: true });
  await using keeper = await take(long);
  expect(await takeKeeper(directory.join("missing"))).toBeUndefined();
  await keeperGone(directory.join("missing"));
  const controller = new AbortController();
  const waiting = takeKeeper(long, { signal: controller.signal });
  const reason = new Error("enough");
  controller.abort(reason);
  await expect(waiting).rejects.toBe(reason);

  const next = takeKeeper(long);
  await new Promise((resolve) => setTimeout(resolve, 20));
  rmSync(long, { recursive: true });
  await keeper[Symbol.asyncDispose]();
  expect(await next).toBeUndefined();
});

test("one that cannot wait says so", async () => {
  await using directory = createTempDir();
  const first = await take(directory.path);
  first.hurried.addEventListener("abort", () => void first[Symbol.asyncDispose]());
  const next = await takeKeeper(directory.path, { hurryAfterMs: 20 });
  expect(first.hurried.aborted).toBe(true);
  await next?.[Symbol.asyncDispose]();
});

test("the place of one that was killed can be taken", async () => {
  await using directory = createTempDir();
  const script = `
    const { takeKeeper } = await import(${JSON.stringify(join(import.meta.dirname, "../../../src/cli/keeper.ts"))});
    await takeKeeper(${JSON.stringify(directory.path)});
    console.log("taken");
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ["--no-warnings", "--input-type=module", "--eval", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(child.stdout, "data");
  expect(await hasKeeper(directory.path)).toBe(true);
  const next = take(directory.path);
  child.kill("SIGKILL");
  await using keeper = await next;
  expect(keeper).toBeDefined();
});
