import { expect, test } from "vitest";
import { Cleanup } from "../../../src/base/cleanup.ts";

const dispose = (cleanup: Cleanup) => cleanup[Symbol.asyncDispose]();

test("steps run last first, each after the end of the one before, and once", async () => {
  const cleanup = new Cleanup();
  const log: string[] = [];
  for (const name of ["directory", "mount", "process"]) {
    cleanup.defer(name, async () => {
      log.push(`${name} begins`);
      await Promise.resolve();
      log.push(`${name} ends`);
    });
  }

  await Promise.all([dispose(cleanup), dispose(cleanup)]);
  await dispose(cleanup);

  expect(log).toEqual(
    ["process", "mount", "directory"].flatMap((name) => [`${name} begins`, `${name} ends`]),
  );
});

test.each([0, 1, 2])("a failure of step %i skips none of the others and is named", async (failing) => {
  const cleanup = new Cleanup();
  const done: number[] = [];
  for (const step of [0, 1, 2]) {
    cleanup.defer(`step ${step}`, () => {
      if (step === failing) throw new Error("planted");
      done.push(step);
    });
  }

  const error = (await dispose(cleanup).catch((reason: unknown) => reason)) as AggregateError;

  expect(done).toEqual([2, 1, 0].filter((step) => step !== failing));
  expect(error.errors).toMatchObject([
    { message: `Cannot release step ${failing}`, cause: { message: "planted" } },
  ]);
});

test("all failures are collected, also of what is thrown and is no error", async () => {
  const cleanup = new Cleanup();
  cleanup.defer("a", () => Promise.reject(new Error("one")));
  // oxlint-disable-next-line prefer-promise-reject-errors -- that is what is tested
  cleanup.defer("b", () => Promise.reject("two"));

  await expect(dispose(cleanup)).rejects.toMatchObject({
    errors: [{ cause: { message: "two" } }, { cause: { message: "one" } }],
  });
});

test("move() hands all steps to the new owner", async () => {
  const first = new Cleanup();
  let released = 0;
  first.defer("thing", () => {
    released += 1;
  });

  const second = first.move();
  await dispose(first);
  expect(released).toBe(0);

  await dispose(second);
  expect(released).toBe(1);
});
