import { CommanderError } from "commander";
import { describe, expect, test } from "vitest";
import { RuntimeError } from "../../../src/base/errors.ts";
import { commandFailure, exitCodeOf, report } from "../../../src/cli/failure.ts";
import { Interruption } from "../../../src/client/signal-relay.ts";
import { parseArguments } from "../../../src/cli/program.ts";

const parse = (...args: string[]) => parseArguments(args, { write: () => {} });

describe("arguments", () => {
  test.each([
    [["run", "--bad", "x"], "unknown option '--bad'"],
    [["run"], "missing required argument 'image'"],
    [["run", "--name"], "option '--name <id>' argument missing"],
    [["bad"], "unknown command 'bad'"],
    [["ps", "extra"], "too many arguments"],
    [["exec", "x"], "missing required argument 'command'"],
    [["stop"], "missing required argument 'id'"],
    [["rm", "-x", "y"], "unknown option '-x'"],
  ])("%j is refused by name", async (args, message) => {
    await expect(parse(...args)).rejects.toThrow(CommanderError);
    await expect(parse(...args)).rejects.toThrow(message);
  });

  test.each([
    [["run", "--memory", "12Q", "x"], 'Cannot use --memory "12Q"'],
    [["run", "--name", "../x", "y"], 'Cannot use --name "../x"'],
    [["run", "--name", "x".repeat(77), "y"], "at most 76 characters"],
    [["run", "--accel", "hvf", "x"], 'Cannot use --accel "hvf"'],
    [["run", "--cpus", "0", "x"], 'Cannot use --cpus "0"'],
    [["stop", "-t", "soon", "x"], 'Cannot use --time "soon"'],
    [["exec", "../x", "sh"], 'Cannot use container id "../x"'],
    [["logs", "a/b"], 'Cannot use container id "a/b"'],
    [["rm", "a..b"], 'Cannot use container id "a..b"'],
    [[], "no command was given"],
  ])("%j has a bad value", async (args, message) => {
    await expect(parse(...args)).rejects.toThrow(RuntimeError);
    await expect(parse(...args)).rejects.toThrow(message);
  });

  test("what stands behind the image or the id belongs to the command", async () => {
    for (const args of [
      ["run", "-it", "--rm", "image", "ls", "--bad", "-x", "--", "--name", "../x"],
      ["run", "-dit", "-e", "A=b", "-e", "B=c", "image", "-c"],
      ["exec", "-it", "x", "ls", "--bad", "-t"],
    ]) {
      await expect(parse(...args)).resolves.toBeDefined();
    }
  });

  test("help is printed and no failure", async () => {
    let text = "";
    const help = parseArguments(["run", "--help"], { write: (part) => void (text += part) });
    await expect(help).rejects.toMatchObject({ exitCode: 0 });
    for (const flag of [
      "--rm",
      "-d",
      "-i",
      "-t",
      "-e",
      "-v",
      "-w",
      "-u",
      "--cpus",
      "--memory",
      "--name",
      "--kernel",
      "--accel",
      "--timeline",
    ]) {
      expect(text).toContain(flag);
    }
  });
});

describe("exit codes", () => {
  // As crun 1.8 says them, passed on by the agent and the daemon.
  test.each([
    ["executable file `nosuch` not found in $PATH: No such file or directory", 127],
    ["open executable: No such file or directory", 127],
    ["open executable: Permission denied", 126],
    ["open executable: Operation not permitted", 126],
    ["exec /x: Exec format error", 126],
    ['Cannot boot: "/usr/bin/qemu" is not installed', 125],
    ["No space left on device", 125],
  ])("%s", (text, exitCode) => {
    expect(exitCodeOf(commandFailure(new RuntimeError("invalid_argument", text), "x"))).toBe(exitCode);
  });

  test("interrupted, and anything else", () => {
    expect(exitCodeOf(new Interruption("SIGINT", 2))).toBe(130);
    expect(exitCodeOf(new Error("x"))).toBe(125);
  });

  test("a failed clean-up stands behind what led to it", () => {
    expect(report(new SuppressedError(new Error("later"), new Error("first")))).toBe("first; then: later");
  });
});
