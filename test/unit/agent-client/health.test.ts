import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { watchHealth } from "../../../src/agent-client/health.ts";

test("three missing answers in a row are the end, fewer are forgiven", async () => {
  const answers = [false, false, true, false, false, false];
  let looks = 0;
  const ping = () => (answers[looks++] === true ? Promise.resolve() : Promise.reject(new Error("no answer")));

  const reason = await watchHealth(ping, { intervalMs: 1, signal: new AbortController().signal });

  expect(reason).toBe("the guest did not answer 3 times in a row, every 1 ms");
  expect(looks).toBe(6);
});

test("an aborted watch says nothing any more and does not look again", async () => {
  const controller = new AbortController();
  let looks = 0;
  let isOver = false;
  const ping = () => {
    looks += 1;
    controller.abort();
    return Promise.reject(new Error("no answer"));
  };
  void watchHealth(ping, { intervalMs: 1, signal: controller.signal }).then(() => {
    isOver = true;
  });

  // Many intervals: that nothing happens has no event.
  await sleep(50);

  expect([looks, isOver]).toEqual([1, false]);
});
