import { readdirSync, readFileSync, readlinkSync } from "node:fs";

/** __SO_ACCEPTCON of the kernel (include/linux/net.h): connections are accepted. */
const acceptsConnections = 0x10000;

/**
 * Whether a process listens on a unix socket: from listen(2) on, not from bind(2), with which its file appears. False for one that
 * has ended.
 *
 * @param path  as the process has bound it, which may be relative
 */
export function isListening(pid: number, path: string): boolean {
  try {
    const directory = `/proc/${pid}/fd`;
    const open = new Set(readdirSync(directory).map((fd) => link(`${directory}/${fd}`)));
    // Num RefCount Protocol Flags Type St Inode Path (proc(5))
    return readFileSync(`/proc/${pid}/net/unix`, "utf8")
      .split("\n")
      .map((line) => line.trim().split(/\s+/))
      .some(
        ([, , , flags = "", , , inode, bound]) =>
          bound === path &&
          (Number.parseInt(flags, 16) & acceptsConnections) !== 0 &&
          open.has(`socket:[${inode}]`),
      );
  } catch {
    return false;
  }
}

function link(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    // It was closed meanwhile.
    return undefined;
  }
}
