import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { buildPath } from "./cli-build.ts";
import type { TempDir } from "./temp-dir.ts";

export const busyboxReference = "docker.io/library/busybox:latest";

const built = buildPath("images/busybox.tar");

/** The demo image as an archive: the one that the build made, else one made in `dir` from the machine's busybox. */
export async function busyboxArchive(dir: TempDir): Promise<string> {
  if (existsSync(built)) return built;
  console.warn(`"${built}" is missing (\`make build\` makes it): a busybox image is made for this run`);
  return makeArchive(dir);
}

function makeArchive(dir: TempDir): string {
  const layout = dir.join("layout");
  const bundle = dir.join("bundle");
  const archive = dir.join("busybox.tar");
  const sh = (file: string, ...args: string[]) =>
    execFileSync(file, args, { encoding: "utf8", stdio: "pipe" });
  const busybox = sh("sh", "-c", "command -v busybox").trim();
  sh("umoci", "init", "--layout", layout);
  sh("umoci", "new", "--image", `${layout}:latest`);
  sh("umoci", "unpack", "--image", `${layout}:latest`, bundle);
  for (const name of ["bin", "etc", "tmp", "root", "dev", "proc", "sys"])
    mkdirSync(join(bundle, "rootfs", name));
  writeFileSync(join(bundle, "rootfs/bin/busybox"), readFileSync(busybox), { mode: 0o755 });
  for (const path of sh(busybox, "--list-full").split("\n")) {
    const link = join(bundle, "rootfs", path);
    if (path === "" || existsSync(link)) continue;
    mkdirSync(dirname(link), { recursive: true });
    symlinkSync("/bin/busybox", link);
  }
  writeFileSync(join(bundle, "rootfs/etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
  sh("umoci", "repack", "--image", `${layout}:latest`, bundle);
  sh(
    "umoci",
    "config",
    "--image",
    `${layout}:latest`,
    "--config.cmd",
    "sh",
    "--config.env",
    "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
  );
  sh(
    "skopeo",
    "--insecure-policy",
    "copy",
    `oci:${layout}:latest`,
    `oci-archive:${archive}:${busyboxReference}`,
  );
  return archive;
}
