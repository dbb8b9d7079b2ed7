import { readdirSync, readFileSync } from "node:fs";

/** Descriptors that whoever started the test run left open for all its children (bash does); not ours to judge. */
export function withoutInherited(descriptors: readonly string[]): string[] {
  const inherited = readdirSync("/proc/self/fd").filter((fd) => Number(fd) > 15 && !isCloseOnExec(fd));
  return descriptors.filter((fd) => !inherited.includes(fd));
}

function isCloseOnExec(fd: string): boolean {
  try {
    const flags = /^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1] ?? "0";
    // O_CLOEXEC, in octal as the kernel prints it.
    return (Number.parseInt(flags, 8) & 0o2000000) !== 0;
  } catch {
    // The descriptor that the directory itself was read with.
    return true;
  }
}
