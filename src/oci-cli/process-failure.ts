import { describe, RuntimeError } from "../base/errors.ts";

/** What a caller reads out of the message: Podman and Docker make exit codes 126 and 127 of these words of runc. */
const rules: readonly { readonly pattern: RegExp; readonly words: string }[] = [
  {
    pattern: /executable file .{0,4096} not found|(?:open|exec\w*|stat) .{0,4096}: No such file/is,
    words: "executable file not found in $PATH",
  },
  {
    pattern:
      /(?:open|exec\w*|stat) .{0,4096}: (?:Permission denied|Operation not permitted|Is a directory)/is,
    words: "permission denied",
  },
  { pattern: /exec.{0,4096}: Exec format error/is, words: "exec format error" },
];

/** The error of a process that could not be started, in runc's words where the guest's runtime (crun) has said the like. */
export function processFailure(error: unknown, command: string): unknown {
  if (!(error instanceof RuntimeError)) return error;
  const text = describe(error);
  const rule = rules.find(({ pattern }) => pattern.test(text));
  if (rule === undefined) return error;
  const name = JSON.stringify(command.slice(0, 200));
  return new RuntimeError(error.code, `unable to start container process: exec: ${name}: ${rule.words}`, {
    cause: error,
  });
}
