import { expect, test } from "vitest";
import { Mutex } from "../../../src/base/mutex.ts";

test("run() runs one piece of work at a time, in the order given, past failures", async () => {
  const mutex = new Mutex();
  const log: string[] = [];
  const work = (name: string, fail = false) =>
    mutex.run(async () => {
      log.push(`${name} begins`);
      await new Promise((resolve) => setImmediate(resolve));
      log.push(`${name} ends`);
      if (fail) throw new Error(name);
      return name;
    });

  const results = await Promise.allSettled([work("a"), work("b", true), work("c")]);

  expect(log).toEqual(["a", "b", "c"].flatMap((name) => [`${name} begins`, `${name} ends`]));
  expect(results).toMatchObject([{ value: "a" }, { reason: { message: "b" } }, { value: "c" }]);
});

test("run() rejects when the work throws before its first wait, and goes on", async () => {
  const mutex = new Mutex();

  const failed = mutex.run(() => {
    throw new Error("at once");
  });

  await expect(failed).rejects.toThrow("at once");
  expect(await mutex.run(() => Promise.resolve(1))).toBe(1);
});
