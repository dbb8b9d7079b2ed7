import { Writable } from "node:stream";
import { expect, test } from "vitest";
import { createLog } from "../../../src/base/log.ts";
import { containerd, runtimeoptions } from "../../../src/gen/options.js";
import { readOptions, readSandboxOptions, readTaskOptions } from "../../../src/shim/options.ts";

const runcType = "containerd.runc.v1.Options";
const settingsType = "runtimeoptions.v1.Options";

function runc(options: containerd.runc.v1.Options.$Properties) {
  return { typeUrl: runcType, value: containerd.runc.v1.Options.encode(options).finish() };
}

function settings(options: runtimeoptions.v1.Options.$Properties) {
  return { typeUrl: settingsType, value: runtimeoptions.v1.Options.encode(options).finish() };
}

/** A log whose lines can be looked at. */
function recorded() {
  const lines: string[] = [];
  const destination = new Writable({
    write: (chunk: Buffer, _, done) => {
      lines.push(chunk.toString());
      done();
    },
  });
  return { lines, log: createLog("debug", destination) };
}

test("readOptions() reads what means something of runc's", () => {
  const options = runc({ noPivotRoot: true, shimCgroup: "/x", binaryName: "crun", systemdCgroup: true });

  expect(readOptions(options)).toEqual({ tag: "runc", noPivotRoot: true, shimCgroup: "/x" });
  expect(readOptions({ ...options, typeUrl: `type.googleapis.com/${runcType}` }).tag).toBe("runc");
});

test("readOptions() takes settings from a path, then from the text", () => {
  const configBody = Buffer.from("default_vcpus = 2\n");

  expect(readOptions(settings({ typeUrl: "x", configPath: "/a.toml", configBody }))).toEqual({
    tag: "settings",
    sources: [
      { tag: "file", path: "/a.toml" },
      { tag: "text", name: "config_body of the runtime options", text: "default_vcpus = 2\n" },
    ],
  });
  expect(readOptions(settings({}))).toEqual({ tag: "settings", sources: [] });
});

test("readOptions() refuses a known type that is not one, and a text of more than a mebibyte", () => {
  const code = expect.objectContaining({ code: "invalid_argument" }) as Error;

  for (const typeUrl of [runcType, settingsType]) {
    expect(() => readOptions({ typeUrl, value: Buffer.from("0affff", "hex") })).toThrowError(code);
  }
  expect(() => readOptions(settings({ configBody: Buffer.alloc(1024 * 1024 + 1) }))).toThrowError(code);
});

test("readSandboxOptions() warns of a type that is not known, and of nothing else", () => {
  expect(readSandboxOptions({ typeUrl: "some.Options", value: Buffer.of(1) })).toEqual({
    sources: [],
    warning: expect.stringContaining('"some.Options"') as string,
  });
  for (const raw of [undefined, runc({ noPivotRoot: true }), settings({})]) {
    expect(readSandboxOptions(raw)).toEqual({ sources: [], warning: undefined });
  }
});

test("readTaskOptions() takes runc's, and says what it ignores", () => {
  const { log, lines } = recorded();
  const given = settings({ configPath: "/a.toml" });
  const any = ({ typeUrl, value }: { typeUrl: string; value: Uint8Array }) => ({ type_url: typeUrl, value });

  expect(readTaskOptions(any(runc({ noPivotRoot: true })), undefined, log)).toEqual({
    noPivotRoot: true,
    own: undefined,
  });
  for (const none of [null, undefined, {}, { type_url: "" }]) {
    expect(readTaskOptions(none, undefined, log)).toEqual({ noPivotRoot: false, own: undefined });
  }
  readTaskOptions(any(given), given, log);
  expect(lines).toEqual([]);

  readTaskOptions(any(given), undefined, log);
  readTaskOptions(any({ typeUrl: "some.Other", value: Buffer.of() }), undefined, log);
  expect(lines.map((line) => /settings in the options|some\.Other/.exec(line)?.[0])).toEqual([
    "settings in the options",
    "some.Other",
  ]);
});
