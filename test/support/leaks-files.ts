import { type Dirent, lstatSync, readdirSync, readlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isMarked, type LeakScope, machineDirectories, namesProduct, type Thing } from "./leaks-scope.ts";

/** Files and directories below the scope's and the product's directories, and ours in the shared temporary places. */
export function findFiles(scope: LeakScope): Thing[] {
  const below = [...machineDirectories, ...(scope.directories ?? [])].flatMap(pathsBelow);
  const shared = [tmpdir(), "/dev/shm", "/run/user", "/run/netns"]
    .flatMap((directory) => list(directory).map((entry) => join(directory, entry.name)))
    .filter((path) => isMarked(scope, path) || namesProduct(path) || path.startsWith("/run/"));
  return [...new Set([...below, ...shared])].map(
    (path): Thing => ({ kind: "file", key: path, text: path, isMarked: isMarked(scope, path) }),
  );
}

/**
 * What a process (containerd) has open, counted per sort of target: the third pipe it holds is "pipe 3".
 *
 * Numbers say nothing about a descriptor, so a count that grew is the leak.
 */
export function findOpenFiles(pid: number): Thing[] {
  const counts = new Map<string, number>();
  return list(`/proc/${pid}/fd`).flatMap((entry): Thing[] => {
    let target: string;
    try {
      target = readlinkSync(`/proc/${pid}/fd/${entry.name}`);
    } catch {
      // Closed while we looked.
      return [];
    }
    // Pipes and sockets have their inode in brackets, anonymous inodes their sort.
    const sort = target.replace(/:\[\d+\]$/, "").replace(/ \(deleted\)$/, "");
    const count = (counts.get(sort) ?? 0) + 1;
    counts.set(sort, count);
    const text = `${sort}, number ${count}`;
    return [{ kind: "containerd's open file", key: text, text: `${text} (pid ${pid})`, isMarked: true }];
  });
}

/** All paths below a directory; a directory that is not there has none. Follows no links and enters no mounts. */
function pathsBelow(directory: string): string[] {
  const device = deviceOf(directory);
  return list(directory).flatMap((entry) => {
    const path = join(directory, entry.name);
    return entry.isDirectory() && deviceOf(path) === device ? [path, ...pathsBelow(path)] : [path];
  });
}

function deviceOf(path: string): number | undefined {
  return lstatSync(path, { throwIfNoEntry: false })?.dev;
}

function list(directory: string): Dirent[] {
  try {
    return readdirSync(directory, { withFileTypes: true });
  } catch {
    return [];
  }
}
