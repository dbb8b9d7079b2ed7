import { execFileSync } from "node:child_process";
import { statSync, truncateSync, writeFileSync } from "node:fs";
import type { TempDir } from "./temp-dir.ts";

/** A block device of the host, made of a file. Disposing detaches it. */
export interface Loop extends Disposable {
  readonly path: string;
  readonly file: string;
  readonly major: number;
  readonly minor: number;
}

/** One of 1 MiB that begins with a line of its name. */
export function attachLoop(dir: TempDir, name: string): Loop {
  const file = dir.join(`${name}.img`);
  writeFileSync(file, `${name}\n`);
  truncateSync(file, 1024 ** 2);
  const path = execFileSync("losetup", ["--find", "--show", file], { encoding: "utf8" }).trim();
  const { rdev } = statSync(path);
  return {
    path,
    file,
    major: (rdev >>> 8) & 0xfff,
    minor: rdev & 0xff,
    [Symbol.dispose]: () => void execFileSync("losetup", ["--detach", path]),
  };
}

type Numbered = Pick<Loop, "major" | "minor">;

/** Devices with their rules, as containerd and Docker write them: for a specification. */
export function withDevices(...devices: (readonly [Numbered, path: string, access: string])[]) {
  return {
    linux: {
      devices: devices.map(([{ major, minor }, path]) => ({
        path,
        type: "b",
        major,
        minor,
        fileMode: 0o640,
        uid: 3,
        gid: 4,
      })),
      resources: {
        devices: [
          { allow: false, access: "rwm" },
          ...devices.map(([{ major, minor }, , access]) => ({
            allow: true,
            type: "b",
            major,
            minor,
            access,
          })),
        ],
      },
    },
  };
}
