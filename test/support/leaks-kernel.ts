import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { run } from "./cli-run.ts";
import { isMarked, type LeakScope, namesProduct, type Thing } from "./leaks-scope.ts";
import { decodeMountPath } from "./temp-dir.ts";

/** Mounts that have our prefixes in point, root, source or options. */
export function findMounts(scope: LeakScope): Thing[] {
  return lines("/proc/self/mountinfo").flatMap((line): Thing[] => {
    if (!isMarked(scope, line) && !namesProduct(line)) return [];
    const [id = "", , , , point = ""] = line.split(" ");
    const [type = "", source = ""] = (line.split(" - ")[1] ?? "").split(" ");
    return [
      {
        kind: "mount",
        key: `${id} ${point}`,
        text: `${type} ${source} on ${decodeMountPath(point)}`,
        isMarked: isMarked(scope, line),
      },
    ];
  });
}

/** Control groups with our prefixes in the path, in every v1 hierarchy and in v2. */
export function findCgroups(scope: LeakScope): Thing[] {
  const hierarchies = lines("/proc/self/mountinfo")
    .filter((line) => / - cgroup2? /.test(line))
    .map((line) => decodeMountPath(line.split(" ")[4] ?? ""));
  return hierarchies.flatMap((hierarchy) =>
    directoriesBelow(hierarchy)
      .filter((path) => isMarked(scope, path) || namesProduct(path))
      .map((path): Thing => ({ kind: "cgroup", key: path, text: path, isMarked: isMarked(scope, path) })),
  );
}

/** Unix sockets, abstract ones included, that are bound to a name with our prefixes. Connections share the name. */
export function findUnixSockets(scope: LeakScope): Thing[] {
  const names = lines("/proc/net/unix")
    .slice(1)
    .map((line) => line.split(/\s+/)[7] ?? "")
    .filter((name) => name !== "" && (isMarked(scope, name) || namesProduct(name)));
  return [...new Set(names)].map(
    (name): Thing => ({ kind: "unix socket", key: name, text: name, isMarked: isMarked(scope, name) }),
  );
}

/** Loop devices in use and device mapper devices. */
export async function findBlockDevices(scope: LeakScope): Promise<Thing[]> {
  const result = await run(["losetup", "--json", "--list", "--output", "NAME,BACK-FILE"], {
    timeoutMs: 20_000,
  });
  if (result.exitCode !== 0) throw new Error(`Cannot list loop devices: ${JSON.stringify(result.stderr)}`);
  const { loopdevices = [] } = JSON.parse(result.stdout.trim() || "{}") as {
    loopdevices?: { name: string; "back-file": string | null }[];
  };
  const loops = loopdevices.map((device) => `${device.name} of ${device["back-file"] ?? "?"}`);
  const mapped = readdirSync("/sys/block").filter((name) => name.startsWith("dm-"));
  return [...loops, ...mapped].map(
    (text): Thing => ({ kind: "block device", key: text, text, isMarked: isMarked(scope, text) }),
  );
}

/** Users and groups, whoever made them: a runtime adds none. */
export function findUsers(scope: LeakScope): Thing[] {
  return ["/etc/passwd", "/etc/group"].flatMap((path) =>
    lines(path).map(
      (line): Thing => ({
        kind: "user",
        key: `${path} ${line}`,
        text: `${line} in ${path}`,
        isMarked: isMarked(scope, line),
      }),
    ),
  );
}

function directoriesBelow(directory: string): string[] {
  const names = listDirectories(directory).map((name) => join(directory, name));
  return names.flatMap((path) => [path, ...directoriesBelow(path)]);
}

function listDirectories(directory: string): string[] {
  try {
    return readdirSync(directory, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch {
    // A control group may end while we look.
    return [];
  }
}

function lines(path: string): string[] {
  return readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line !== "");
}
