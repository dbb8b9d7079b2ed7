import { writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import {
  parseAccelerator,
  parseCpus,
  parseEnvironment,
  parseKernel,
  parseMemory,
  parseSeconds,
  parseVolume,
  parseWorkingDirectory,
} from "../../../src/cli/options.ts";
import { signalNumber } from "../../../src/client/signal-names.ts";
import { createTempDir } from "../../support/temp-dir.ts";

const MiB = 1024 ** 2;

/** Every text that is refused is named in the message, with its option. */
function refuses(parse: (text: string) => unknown, option: string, texts: readonly string[]): void {
  for (const text of texts) {
    expect(() => parse(text), text).toThrow(`Cannot use ${option} ${JSON.stringify(text)}: `);
  }
}

describe("sizes and numbers", () => {
  test("memory", () => {
    const table: Record<string, number> = {
      "256M": 256 * MiB,
      "256m": 256 * MiB,
      "256MiB": 256 * MiB,
      "256mb": 256 * MiB,
      "1.5g": 1536 * MiB,
      "6291456": 6 * MiB,
      "6291456b": 6 * MiB,
      "1048576k": 1024 * MiB,
      "1T": 1024 ** 4,
    };
    expect(Object.fromEntries(Object.keys(table).map((text) => [text, parseMemory(text)]))).toEqual(table);
    refuses(parseMemory, "--memory", [
      "",
      "0",
      "-1",
      "5M",
      "2T",
      "1e9",
      "0x100000000",
      "64M;reboot",
      "M",
      "12Q",
      " 64M",
      "64M ",
      "1.M",
      "NaN",
      "9223372036854771712",
      "99999999999999999999",
      "64MM",
      "constructor",
    ]);
  });

  test("cpus, seconds, accelerator", () => {
    expect(["0.01", "0.5", "2", "256"].map(parseCpus)).toEqual([0.01, 0.5, 2, 256]);
    refuses(parseCpus, "--cpus", ["", "0", "0.001", "257", "-1", "1e1", "0x10", "two", "1,5", " 1"]);
    expect(["0", "10", "999999"].map(parseSeconds)).toEqual([0, 10, 999_999]);
    refuses(parseSeconds, "--time", ["", "-1", "1.5", "1000000", "1s"]);
    expect(["kvm", "tcg", "auto"].map(parseAccelerator)).toEqual(["kvm", "tcg", "auto"]);
    refuses(parseAccelerator, "--accel", ["", "KVM", "hvf", "tcg,thread=single"]);
  });

  test("signals", () => {
    const names = ["SIGTERM", "TERM", "term", "15", "SIGKILL", "SIGRTMIN", "SIGRTMIN+3", "RTMAX-1", "64"];
    expect(names.map(signalNumber)).toEqual([15, 15, 15, 15, 9, 34, 37, 63, 64]);
    for (const text of ["", "0", "65", "-9", "SIGNOPE", "SIGRTMIN+99", "constructor", "TERM\n"]) {
      expect(() => signalNumber(text), text).toThrow("there is no such signal");
    }
  });
});

describe("environment and paths", () => {
  test("environment", () => {
    const own = { HOME: "/root" };
    expect(parseEnvironment("A=b", own)).toBe("A=b");
    expect(parseEnvironment("A=", own)).toBe("A=");
    expect(parseEnvironment("A=b=c d", own)).toBe("A=b=c d");
    expect(parseEnvironment("HOME", own)).toBe("HOME=/root");
    expect(parseEnvironment("NOT_THERE", own)).toBeUndefined();
    expect(parseEnvironment("constructor", own)).toBeUndefined();
    refuses((text) => parseEnvironment(text, own), "--env", ["", "=x", "A B=c", "A\0=b", "A=\0"]);
  });

  test("working directory", () => {
    expect(parseWorkingDirectory("/a/b")).toBe("/a/b");
    refuses(parseWorkingDirectory, "--workdir", ["", "a", "/a/../b", "/a\0"]);
  });

  test("volumes", async () => {
    await using directory = createTempDir();
    const source = directory.path;
    expect(parseVolume(`${source}:/x`)).toEqual({ source, destination: "/x", readOnly: false });
    expect(parseVolume(`${source}:/x:rw`)).toEqual({ source, destination: "/x", readOnly: false });
    expect(parseVolume(`${source}/../${source.slice(5)}:/x/y:ro`)).toEqual({
      source,
      destination: "/x/y",
      readOnly: true,
    });
    refuses(parseVolume, "--volume", [
      "",
      ":",
      source,
      `${source}:`,
      `${source}:x`,
      `${source}:/`,
      `${source}:/a/../b`,
      `${source}:/x:rx`,
      `${source}:/x:ro:z`,
      "name:/x",
      ":/x",
      `${source}/missing:/x`,
      `${source}\0:/x`,
    ]);
  });

  test("kernel", async () => {
    await using directory = createTempDir();
    writeFileSync(directory.join("vmlinux"), "");
    expect(parseKernel(directory.join("vmlinux"))).toBe(directory.join("vmlinux"));
    refuses(parseKernel, "--kernel", [directory.path, directory.join("missing")]);
  });
});
