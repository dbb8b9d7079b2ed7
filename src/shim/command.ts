import { fstatSync, writeSync } from "node:fs";
import { describe, RuntimeError } from "../base/errors.ts";
import { type Flags, parseFlags } from "./flags.ts";
import type { ShimParts } from "./parts.ts";

const maxStdinBytes = 10 * 1024 * 1024;

/**
 * Runs the command that the arguments ask for and ends the process, except for the daemon.
 *
 * containerd takes stdout and stderr of `start` together as the answer, so nothing else is ever written to them.
 */
export async function runCommand(argv: readonly string[], parts: ShimParts): Promise<void> {
  process.removeAllListeners("warning");
  const flags = parseFlags(argv);
  if (flags.action === "daemon") {
    const { runDaemon } = await import("./daemon.ts");
    await runDaemon(parts);
    return;
  }
  try {
    const answer = await runShortCommand(flags, parts);
    writeAll(1, answer);
    process.exit(0);
  } catch (error) {
    writeAll(2, Buffer.from(`${describe(error)}\n`));
    process.exit(1);
  }
}

async function runShortCommand(flags: Flags, parts: ShimParts): Promise<Uint8Array> {
  if (flags.version) {
    const { version } = await import("./version.ts");
    return Buffer.from(`containerd-shim-caisson-v2 ${version}\n`);
  }
  if (flags.info) {
    const { runtimeInfo } = await import("./info.ts");
    return runtimeInfo(await readStdin());
  }
  switch (flags.action) {
    case "start": {
      const { start } = await import("./start.ts");
      return Buffer.from(await start(flags, await readStdin(), parts));
    }
    case "delete": {
      const { deleteContainer } = await import("./delete.ts");
      return deleteContainer(flags, parts);
    }
    default:
      throw new RuntimeError(
        "invalid_argument",
        `Cannot run the action ${JSON.stringify(flags.action)}: expected start or delete, or the flag -info or -v; this program is run by containerd`,
      );
  }
}

/** Reads stdin to its end; a terminal or something closed counts as empty. */
async function readStdin(): Promise<Uint8Array> {
  try {
    if (fstatSync(0).isCharacterDevice()) return new Uint8Array();
  } catch {
    // Closed: there is nothing to read.
    return new Uint8Array();
  }
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of process.stdin) {
    chunks.push(chunk as Buffer);
    length += (chunk as Buffer).length;
    if (length > maxStdinBytes) {
      throw new RuntimeError(
        "resource_exhausted",
        `Cannot read stdin: it has more than ${maxStdinBytes} bytes`,
      );
    }
  }
  return Buffer.concat(chunks);
}

function writeAll(fd: number, bytes: Uint8Array): void {
  for (let offset = 0; offset < bytes.length; ) offset += writeSync(fd, bytes, offset);
}
