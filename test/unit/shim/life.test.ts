import { Writable } from "node:stream";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createLog } from "../../../src/base/log.ts";
import { Life } from "../../../src/shim/life.ts";

const log = createLog("silent", new Writable());

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

/** A sandbox whose creations end when the test says so. */
function setUp() {
  const containers: { id: string }[] = [];
  let creation = Promise.withResolvers<unknown>();
  const sandbox = {
    containers,
    createContainer: () => {
      creation = Promise.withResolvers();
      return creation.promise;
    },
  };
  const onEnd = vi.fn<() => void>();
  const life = new Life({ sandbox: sandbox as never, log, onEnd });
  return {
    life,
    containers,
    create: (id: string) => life.create({ containerId: id } as never, new AbortController().signal),
    finish: () => creation.resolve({}),
    fail: (error: Error) => creation.reject(error),
    hasEnded: () => {
      // The end is announced after the answer of the call that caused it.
      vi.advanceTimersByTime(0);
      return onEnd.mock.calls.length > 0;
    },
  };
}

test("an announced container keeps the daemon until it is released", () => {
  const { life, hasEnded } = setUp();
  life.announce("a");

  life.release("b");
  expect(hasEnded()).toBe(false);

  life.release("a");
  expect(hasEnded()).toBe(true);
  expect(() => life.announce("c")).toThrowError(/is ending/);
});

test("an announced container that never comes ends the daemon after two minutes", () => {
  const { life, hasEnded } = setUp();
  life.announce("a");

  vi.advanceTimersByTime(119_000);
  expect(hasEnded()).toBe(false);

  vi.advanceTimersByTime(2_000);
  expect(hasEnded()).toBe(true);
});

test("a creation of whatever length keeps the daemon", async () => {
  const { life, create, containers, finish, hasEnded } = setUp();
  life.announce("a");
  const created = create("a");

  vi.advanceTimersByTime(600_000);
  life.release("b");
  expect(life.containerCount).toBe(1);
  containers.push({ id: "a" });
  finish();
  await created;

  vi.advanceTimersByTime(600_000);
  expect(life.containerCount).toBe(1);
  expect(hasEnded()).toBe(false);
});

test("a creation that was given up does not keep the daemon", async () => {
  const { life, create, fail, hasEnded } = setUp();
  const created = create("a");

  life.release("a");

  expect(hasEnded()).toBe(true);
  fail(new Error("rolled back"));
  await expect(created).rejects.toThrow("rolled back");
});

test("a failed creation can be tried again; two at once of one id are refused", async () => {
  const { life, create, fail, hasEnded } = setUp();
  const first = create("a");
  await expect(create("a")).rejects.toMatchObject({ code: "already_exists" });
  fail(new Error("no"));
  await expect(first).rejects.toThrow("no");

  life.release("b");
  expect(hasEnded()).toBe(false);
  const second = create("a");
  expect(life.containerCount).toBe(1);

  fail(new Error("no"));
  await expect(second).rejects.toThrow("no");
  life.release("a");
  expect(hasEnded()).toBe(true);
});

test("a failed creation beside other containers keeps nothing: its client may never come again", async () => {
  const { life, create, containers, fail, hasEnded } = setUp();
  containers.push({ id: "pause" });
  const created = create("app");
  fail(new Error("no"));
  await expect(created).rejects.toThrow("no");

  containers.pop();
  life.onDelete();
  life.shutdown("pause");

  expect(hasEnded()).toBe(true);
});

test("a daemon that was asked to end goes with its last container", () => {
  const { life, containers, hasEnded } = setUp();
  containers.push({ id: "pause" }, { id: "app" });

  containers.shift();
  life.onDelete();
  life.shutdown("pause");
  expect(hasEnded()).toBe(false);

  containers.shift();
  life.onDelete();
  expect(hasEnded()).toBe(true);
});

test("a daemon that nobody asked to end stays when its last container was deleted", () => {
  const { life, hasEnded } = setUp();
  life.onDelete();

  expect(hasEnded()).toBe(false);
});

test("a held daemon stays without containers, and ends with the removal of its sandbox", async () => {
  const { life, containers, hasEnded } = setUp();
  life.announce("sandbox");
  life.hold("sandbox");
  vi.advanceTimersByTime(200_000);
  containers.push({ id: "app" });

  containers.shift();
  life.onDelete();
  life.shutdown("app");
  expect(await life.remove("app")).toBe(1);
  expect(hasEnded()).toBe(false);

  expect(await life.remove("sandbox")).toBe(0);
  expect(hasEnded()).toBe(true);
});
