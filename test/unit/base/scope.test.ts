import { getEventListeners } from "node:events";
import { afterEach, expect, test, vi } from "vitest";
import { RuntimeError } from "../../../src/base/errors.ts";
import { abortable, scope, within } from "../../../src/base/scope.ts";
import { settleAll } from "../../../src/base/settle.ts";

const listeners = (signal: AbortSignal) => getEventListeners(signal, "abort").length;

afterEach(() => {
  vi.useRealTimers();
});

test("scope() aborts with the parent's reason, and leaves no listener and no timer", () => {
  vi.useFakeTimers();
  const parent = new AbortController();
  const reason = new RuntimeError("canceled", "the caller left");
  const limit = scope(parent.signal, 1_000, "the work");

  parent.abort(reason);
  expect(limit.signal.reason).toBe(reason);

  limit[Symbol.dispose]();
  expect(listeners(parent.signal)).toBe(0);
  expect(vi.getTimerCount()).toBe(0);
});

test("scope() aborts after its time with deadline_exceeded, and the first reason stays", () => {
  vi.useFakeTimers();
  const parent = new AbortController();
  using limit = scope(parent.signal, 1_000, "the work");

  vi.advanceTimersByTime(999);
  expect(limit.signal.aborted).toBe(false);
  vi.advanceTimersByTime(1);
  parent.abort(new Error("later"));

  expect(limit.signal.reason).toMatchObject({
    code: "deadline_exceeded",
    message: "Cannot finish the work: no result within 1000 ms",
  });
});

test("scope() of a parent that has aborted is aborted from the start", () => {
  using limit = scope(AbortSignal.abort("gone"), 60_000, "the work");

  expect(limit.signal.reason).toBe("gone");
});

test("scope() without a parent, disposed of in time, never aborts", () => {
  vi.useFakeTimers();
  const limit = scope(undefined, 1_000, "the work");

  limit[Symbol.dispose]();
  vi.runAllTimers();

  expect(limit.signal.aborted).toBe(false);
});

test("abortable() settles as its work does and leaves no listener", async () => {
  const { signal } = new AbortController();

  expect(await abortable(Promise.resolve(1), signal)).toBe(1);
  await expect(abortable(Promise.reject(new Error("failed")), signal)).rejects.toThrow("failed");

  expect(listeners(signal)).toBe(0);
});

test("abortable() rejects with the signal's reason; what the work says later is nobody's", async () => {
  const controller = new AbortController();
  const work = Promise.withResolvers<void>();
  const waiting = abortable(work.promise, controller.signal);

  controller.abort(new Error("enough"));
  await expect(waiting).rejects.toThrow("enough");
  work.reject(new Error("too late"));

  await expect(abortable(Promise.reject(new Error("x")), controller.signal)).rejects.toThrow("enough");
  expect(listeners(controller.signal)).toBe(0);
});

test("within() gives the result, the failure, or the fallback, and leaves no timer", async () => {
  vi.useFakeTimers();
  expect(await within(Promise.resolve("done"), 1_000, "late")).toBe("done");
  await expect(within(Promise.reject(new Error("failed")), 1_000, "late")).rejects.toThrow("failed");
  expect(vi.getTimerCount()).toBe(0);

  const waiting = within(new Promise(() => {}), 1_000, "late");
  vi.advanceTimersByTime(1_000);
  expect(await waiting).toBe("late");
});

test("settleAll() waits for all also when one has failed, and throws the first of the list", async () => {
  const slow = Promise.withResolvers<string>();
  let settled = false;
  const all = settleAll([slow.promise, Promise.reject(new Error("second"))]).finally(() => {
    settled = true;
  });
  all.catch(() => {});
  await Promise.resolve();
  expect(settled).toBe(false);

  slow.reject(new Error("first"));

  await expect(all).rejects.toThrow("first");
  expect(await settleAll([Promise.resolve(1), Promise.resolve("two")])).toEqual([1, "two"]);
});
