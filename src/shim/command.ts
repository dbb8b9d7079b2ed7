import { writeSync } from "node:fs";
import { describe, RuntimeError } from "../base/errors.ts";
import { type Flags, parseFlags } from "./flags.ts";
import type { ShimParts } from "./parts.ts";

/**
 * Runs what the launcher (launcher/) leaves to Node: daemons, the keeper of a pool of them, and a `delete` that has
 * something to clean up.
 *
 * Nothing but the answer is ever written to stdout.
 */
export async function runCommand(argv: readonly string[], parts: ShimParts): Promise<void> {
  process.removeAllListeners("warning");
  const flags = parseFlags(argv);
  if (flags.action === "daemon") {
    const { runDaemon } = await import("./daemon.ts");
    await runDaemon(flags, parts);
    return;
  }
  if (flags.action === "node-daemon") {
    const { runNodeDaemon } = await import("./node-daemon.ts");
    await runNodeDaemon(flags, parts);
    return;
  }
  if (flags.action === "ready-daemon") {
    const { runReadyDaemon } = await import("./ready-daemon.ts");
    await runReadyDaemon(flags, parts);
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
  if (flags.action === "pool") {
    const { keepPool } = await import("./pool.ts");
    await keepPool(parts);
    return new Uint8Array();
  }
  if (flags.action !== "delete") {
    throw new RuntimeError(
      "invalid_argument",
      `Cannot run the action ${JSON.stringify(flags.action)}: expected start, delete or pool, or the flag -info or -v; this program is run by containerd`,
    );
  }
  const { deleteContainer } = await import("./delete.ts");
  return deleteContainer(flags, parts);
}

function writeAll(fd: number, bytes: Uint8Array): void {
  for (let offset = 0; offset < bytes.length; ) offset += writeSync(fd, bytes, offset);
}
