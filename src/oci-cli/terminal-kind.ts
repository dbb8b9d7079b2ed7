import { RuntimeError } from "../base/errors.ts";
import type { TerminalKind } from "./proxy.ts";

export interface TerminalRequest {
  /** The process wants a terminal. */
  readonly terminal: boolean;
  readonly consoleSocket: string | undefined;
  /** The command ends before the process. */
  readonly detached: boolean;
}

/** Where a process's terminal is to be found. @throws invalid_argument  runc's rules are not kept */
export function terminalKind({ terminal, consoleSocket, detached }: TerminalRequest): TerminalKind {
  if (detached && terminal && consoleSocket === undefined) {
    throw new RuntimeError(
      "invalid_argument",
      "cannot allocate tty if caisson-oci will detach without setting console socket",
    );
  }
  if (consoleSocket !== undefined && !(detached && terminal)) {
    throw new RuntimeError(
      "invalid_argument",
      "cannot use console socket if caisson-oci will not detach or allocate tty",
    );
  }
  if (consoleSocket !== undefined) return { tag: "socket", path: consoleSocket };
  return { tag: terminal ? "own" : "none" };
}
