import { describe, expect, test } from "vitest";
import { exampleSpec, featuresDocument } from "../../../src/oci-cli/documents.ts";
import { parseDuration } from "../../../src/oci-cli/events.ts";
import { changed, type ProcessChanges } from "../../../src/oci-cli/exec.ts";
import { type Flag, parseFlags, UsageError } from "../../../src/oci-cli/flags.ts";
import { resourcesOf } from "../../../src/oci-cli/resources.ts";
import { ContainerStore } from "../../../src/oci-cli/store.ts";
import { terminalKind } from "../../../src/oci-cli/terminal-kind.ts";

const flags: readonly Flag[] = [
  { names: ["force", "f"], kind: "switch", text: "" },
  { names: ["bundle", "b"], kind: "text", text: "" },
  { names: ["env", "e"], kind: "list", text: "" },
  { names: ["count"], kind: "number", text: "" },
];

describe("parseFlags()", () => {
  test.for([
    { args: ["--bundle", "x", "id"], bundle: "x", rest: ["id"] },
    { args: ["-bundle=x=y", "id"], bundle: "x=y", rest: ["id"] },
    { args: ["id", "-b", "-"], bundle: "-", rest: ["id"] },
    { args: ["--", "--bundle"], bundle: undefined, rest: ["--bundle"] },
    { args: ["-", "a"], bundle: undefined, rest: ["-", "a"] },
  ])("$args", ({ args, bundle, rest }) => {
    const parsed = parseFlags(args, flags, { stopsAtArgument: false });

    expect(parsed.values.text("bundle")).toBe(bundle);
    expect(parsed.rest).toEqual(rest);
  });

  test("a command's own flags are left alone", () => {
    const parsed = parseFlags(["-e", "A=1", "-e", "B", "id", "ls", "-f"], flags, { stopsAtArgument: true });

    expect(parsed.values.list("env")).toEqual(["A=1", "B"]);
    expect(parsed.values.isOn("force")).toBe(false);
    expect(parsed.rest).toEqual(["id", "ls", "-f"]);
  });

  test.for([
    { args: ["--nope"], text: "flag provided but not defined: -nope" },
    { args: ["--bundle"], text: "flag needs an argument: -bundle" },
    { args: ["--force=maybe"], text: 'invalid boolean value "maybe" for -force: parse error' },
    { args: ["--count", "abc"], text: 'invalid value "abc" for flag -count: parse error' },
  ])("$text", ({ args, text }) => {
    expect(() => parseFlags(args, flags, { stopsAtArgument: false })).toThrow(new UsageError(text));
  });

  test("--switch=false is off", () => {
    const { values } = parseFlags(["-f", "--force=false"], flags, { stopsAtArgument: false });
    expect(values.isOn("force")).toBe(false);
  });
});

test.for([
  { terminal: true, consoleSocket: undefined, detached: true, want: /cannot allocate tty/ },
  { terminal: false, consoleSocket: "/s", detached: true, want: /cannot use console socket/ },
  { terminal: true, consoleSocket: "/s", detached: false, want: /cannot use console socket/ },
  { terminal: true, consoleSocket: "/s", detached: true, want: "socket" },
  { terminal: true, consoleSocket: undefined, detached: false, want: "own" },
  { terminal: false, consoleSocket: undefined, detached: true, want: "none" },
])(
  "terminalKind(): terminal $terminal, socket $consoleSocket, detached $detached",
  ({ want, ...request }) => {
    if (typeof want === "string") expect(terminalKind(request).tag).toBe(want);
    else expect(() => terminalKind(request)).toThrow(want);
  },
);

describe("changed()", () => {
  const own = { args: ["a"], cwd: "/", env: ["A=1"], user: { uid: 1, gid: 2 }, terminal: true };
  const none: ProcessChanges = {
    args: ["b"],
    cwd: undefined,
    env: [],
    user: undefined,
    additionalGids: [],
    terminal: false,
    noNewPrivileges: false,
    capabilities: [],
  };

  test("what is not asked for stays, but for command and terminal", () => {
    expect(changed(own, none)).toEqual({ ...own, args: ["b"], terminal: false });
  });

  test("user, groups, environment and capabilities are added", () => {
    const changes = { ...none, user: "5:6", additionalGids: [7], env: ["B=2"], capabilities: ["CAP_KILL"] };

    expect(changed({ ...own, capabilities: { ambient: ["CAP_CHOWN"] } }, changes)).toMatchObject({
      user: { uid: 5, gid: 6, additionalGids: [7] },
      env: ["A=1", "B=2"],
      capabilities: {
        bounding: ["CAP_KILL"],
        effective: ["CAP_KILL"],
        permitted: ["CAP_KILL"],
        ambient: ["CAP_CHOWN"],
      },
    });
  });

  test("a user's name is refused: the numbers are the caller's to find", () => {
    expect(() => changed(own, { ...none, user: "root" })).toThrow("parsing root as int for uid failed");
    expect(() => changed(own, { ...none, user: "5:staff" })).toThrow("parsing staff as int for gid failed");
  });
});

test.for([
  { text: "5s", want: 5_000 },
  { text: "1m30s", want: 90_000 },
  { text: "250ms", want: 250 },
])("parseDuration($text)", ({ text, want }) => expect(parseDuration(text)).toBe(want));

test.for(["0", "0s", "0m0s"])("parseDuration(%j): an interval has a length", (text) => {
  expect(() => parseDuration(text)).toThrow("duration interval must be greater than 0");
});
test.for(["", "5", "s5", "5s x"])("parseDuration(%j) is no duration, and a wrong command line", (text) => {
  expect(() => parseDuration(text)).toThrow(UsageError);
});

describe("resourcesOf()", () => {
  const names = ["memory", "cpu-quota", "pids-limit", "cpuset-cpus"];
  const parse = (...args: string[]) =>
    parseFlags(
      args,
      names.map((name): Flag => ({ names: [name], kind: "text", text: "" })),
      { stopsAtArgument: false },
    ).values;

  test("amounts of memory have units", async () => {
    expect(await resourcesOf(parse("--memory", "64M", "--cpu-quota=-1", "--pids-limit", "7"))).toEqual({
      memory: { limit: 64 * 1024 ** 2 },
      cpu: { quota: -1 },
      pids: { limit: 7 },
    });
  });

  test("what a guest does not have is refused", async () => {
    await expect(resourcesOf(parse("--cpuset-cpus", "0"))).rejects.toMatchObject({ code: "unimplemented" });
    await expect(resourcesOf(parse("--pids-limit", "7M"))).rejects.toMatchObject({
      code: "invalid_argument",
    });
  });
});

describe("ContainerStore", () => {
  test.for(["", ".", "..", "a/b", "a b", "x".repeat(256)])("the id %j is refused", (id) => {
    expect(() => new ContainerStore("/r").paths(id)).toThrow(
      expect.objectContaining({ code: "invalid_argument" }),
    );
  });

  test("roots do not share sandboxes, and every id of runc's has a name that the daemon takes", () => {
    const standard = new ContainerStore(undefined).sandboxName("a");
    expect(standard).toEqual({ namespace: "oci", sandboxId: "a" });
    expect(new ContainerStore("/r").sandboxName("a").namespace).toMatch(/^oci-[0-9a-f]{12}$/);
    expect(new ContainerStore(undefined).sandboxName("_a+b").sandboxId).toMatch(/^h[0-9a-f]{40}$/);
  });
});

test("features says nothing that is not so, and spec is a configuration for a terminal", () => {
  expect(featuresDocument()).toMatchObject({
    linux: { apparmor: { enabled: false }, selinux: { enabled: false }, cgroup: { v2: true, v1: false } },
    annotations: { "org.opencontainers.runc.checkpoint.enabled": "false" },
  });
  expect(exampleSpec()).toMatchObject({
    process: { terminal: true, args: ["sh"] },
    root: { path: "rootfs" },
  });
});
