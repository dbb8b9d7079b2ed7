/** What a leak check looks at beyond the machine-wide kinds, and how it tells our things from another run's. */
export interface LeakScope {
  /**
   * Words that mark what a test makes: its token (part of ids and paths) and its own directories. A thing that has one
   * of them in its name, path or command line is ours for certain.
   */
  readonly marks: readonly string[];
  /** Directories whose content is compared, to any depth. Not there: empty. */
  readonly directories?: readonly string[];
  /** A containerd whose open files are compared. */
  readonly containerdPid?: number;
}

/** The kinds of things that are compared. */
export const kinds = [
  "process",
  "zombie",
  "mount",
  "link",
  "qdisc",
  "network namespace",
  "cgroup",
  "unix socket",
  "file",
  "block device",
  "containerd's open file",
  "user",
] as const;

export type Kind = (typeof kinds)[number];

/** Taking these away is damage; that a process, a socket or a file of ours ended is not. */
export const keptKinds: readonly Kind[] = ["mount", "link", "network namespace", "block device", "user"];

/** One thing found. `key` is its identity; a thing replaced by another of the same name has another key. */
export interface Thing {
  readonly kind: Kind;
  readonly key: string;
  /** For the report. */
  readonly text: string;
  /** Whether a mark of the scope shows that it is ours. */
  readonly isMarked: boolean;
  /** Its end is no damage although it is of a kept kind: it lives only as long as some process does. */
  readonly mayEnd?: boolean;
}

/** Where the product keeps things that every user of the machine shares. */
export const machineDirectories = ["/run/caisson", "/run/containerd/s"] as const;

/** True when the text has one of the scope's marks. */
export function isMarked(scope: LeakScope, text: string): boolean {
  return scope.marks.some((mark) => text.includes(mark));
}

/** True when the text names the product or one of its machine-wide directories. */
export function namesProduct(text: string): boolean {
  return /caisson/i.test(text) || machineDirectories.some((directory) => text.includes(directory));
}
