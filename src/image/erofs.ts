import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { chmod, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { runChild } from "../base/child.ts";
import { RuntimeError } from "../base/errors.ts";
import type { Image } from "./store.ts";

/** Long enough for the largest images on a slow disk. */
const buildTimeoutMs = 1_800_000;

/**
 * The image's files as one EROFS image, made once and kept beside them: all VMs read the same file. Not compressed: reading is
 * what it is for.
 *
 * @throws invalid_argument  the image is a directory of the user's, which may change
 * @throws not_found         mkfs.erofs (erofs-utils) is not installed
 */
export async function openErofs(image: Image, signal: AbortSignal): Promise<string> {
  if (image.kind !== "layered") {
    throw new RuntimeError(
      "invalid_argument",
      `Cannot make an EROFS image of "${image.name}": only images are, a directory may change`,
    );
  }
  const directory = dirname(image.rootfs);
  const path = join(directory, "rootfs.erofs");
  if (existsSync(path)) return path;
  // Two may make it at the same time: both are whole, and the last one stays.
  const temporary = `${path}.${randomBytes(4).toString("hex")}`;
  try {
    await runChild(["mkfs.erofs", "-d0", temporary, image.rootfs], {
      action: `make an EROFS image of "${image.name}"`,
      cwd: directory,
      timeoutMs: buildTimeoutMs,
      signal,
    });
    await chmod(temporary, 0o600);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  return path;
}
