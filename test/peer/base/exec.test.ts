import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { RuntimeError } from "../../../src/base/errors.ts";
import { exec } from "../../../src/base/exec.ts";
import { withoutInherited } from "./inherited.ts";

test("exec() returns stdout as it is and feeds stdin", async () => {
  expect(await exec(["cat"], { input: "a\n\n" })).toBe("a\n\n");
  expect(await exec(["pwd"], { cwd: "/proc" })).toBe("/proc\n");
  // Nobody reads it: no broken pipe of ours.
  expect(await exec(["true"], { input: "x".repeat(1_000_000) })).toBe("");
});

test("exec() gives the minimal environment and no descriptor but the standard ones", async () => {
  process.env["CAISSON_TEST_SECRET"] = "secret";

  const environment = await exec(["env"]);
  const descriptors = await exec(["ls", "/proc/self/fd"]);

  expect(environment.trim().split("\n").sort()).toEqual([
    "LANG=C.UTF-8",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  ]);
  // 3 is the directory that is listed.
  expect(withoutInherited(descriptors.trim().split("\n"))).toEqual(["0", "1", "2", "3"]);
});

const failures = [
  {
    name: "an exit code",
    argv: ["sh", "-c", "echo why >&2; exit 7"],
    code: "internal",
    words: 'exit code 7, "why"',
  },
  { name: "a signal", argv: ["sh", "-c", "kill -9 $$"], code: "internal", words: "SIGKILL" },
  { name: "no program", argv: ["no-such-program"], code: "not_found", words: "it is not installed" },
  { name: "no permission", argv: ["/etc/passwd"], code: "permission_denied", words: "EACCES" },
  {
    name: "endless output",
    argv: ["head", "-c", "17000000", "/dev/zero"],
    code: "internal",
    words: "more than 16777216 bytes",
  },
];

test.each(failures)("exec() that ends with $name", async ({ argv, code, words }) => {
  const error = (await exec(argv).catch((reason: unknown) => reason)) as Error;

  expect(error).toMatchObject({ code, message: expect.stringContaining(words) });
  expect(error.message).toContain(argv[0]);
});

test("exec() bounds and escapes the last words of a program", async () => {
  const script = String.raw`head -c 100000 /dev/zero | tr '\0' x >&2; printf '\033[2J\n' >&2; exit 1`;
  const error = (await exec(["sh", "-c", script]).catch((reason: unknown) => reason)) as Error;

  expect(error.message).toContain(String.raw`x\u001b[2J"`);
  expect(error.message.length).toBeLessThan(2_000);
});

test("exec() of a missing working directory does not say that the program is missing", async () => {
  await expect(exec(["true"], { cwd: "/nonexistent" })).rejects.toThrow("/nonexistent");
});

/** A program whose child holds the output for longer than it lives, and says its pid. */
const withChild = (script: string) => ["sh", "-c", `sleep 60 & echo $! >&2; ${script}`];

async function expectChildIsDead(error: Error): Promise<void> {
  const pid = /"(\d+)/.exec(error.message)?.[1];
  expect(pid).toBeDefined();
  await expect.poll(() => stateOf(pid ?? "")).toMatch(/^[ZX-]$/);
}

function stateOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.[0] ?? "-";
  } catch {
    return "-";
  }
}

test("exec() ends at its time limit, and what the program started ends with it", async () => {
  const startMs = performance.now();

  const error = (await exec(withChild("sleep 60"), { timeoutMs: 300 }).catch(
    (reason: unknown) => reason,
  )) as Error;

  expect(error).toMatchObject({ code: "deadline_exceeded", message: expect.stringContaining("time limit") });
  expect(performance.now() - startMs).toBeLessThan(5_000);
  await expectChildIsDead(error);
});

test("exec() ends at its time limit when only a child of the program is left", async () => {
  const error = (await exec(withChild("exit 3"), { timeoutMs: 300 }).catch(
    (reason: unknown) => reason,
  )) as Error;

  expect(error.message).toContain("exit code 3");
  await expectChildIsDead(error);
});

test("exec() ends with the reason of the signal although the program ignores SIGTERM", async () => {
  const controller = new AbortController();
  const running = exec(["sh", "-c", "trap '' TERM; sleep 60"], { signal: controller.signal });

  controller.abort(new RuntimeError("canceled", "the caller left"));

  await expect(running).rejects.toThrow("the caller left");
  await expect(exec(["true"], { signal: controller.signal })).rejects.toThrow("the caller left");
});
