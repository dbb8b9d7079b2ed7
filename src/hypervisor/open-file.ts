import { constants } from "node:fs";
import { open } from "node:fs/promises";
import type { Cleanup } from "../base/cleanup.ts";
import { asError, RuntimeError } from "../base/errors.ts";
import { systemErrorCode } from "../base/files.ts";

export interface VmFile {
  readonly path: string;
  readonly access: "read" | "read-write";
}

/**
 * Opens a file for a VMM, which inherits it or gets a duplicate. `files` closes our own.
 *
 * @throws not_found, permission_denied and what else the system says
 */
export async function openVmFile({ path, access }: VmFile, files: Cleanup): Promise<number> {
  const flags = access === "read" ? constants.O_RDONLY : constants.O_RDWR;
  const file = await open(path, flags).catch((cause: unknown) => {
    const fact = asError(cause).message;
    throw new RuntimeError(systemErrorCode(cause), `Cannot open "${path}" for the VM: ${fact}`, { cause });
  });
  files.defer(path, () => file.close());
  return file.fd;
}
