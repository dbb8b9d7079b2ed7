import { describe, RuntimeError } from "../base/errors.ts";

/** What callers read out of the message: Podman and Docker make exit codes 126 and 127 of these words of runc. */
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

/** For a call that starts a process: throws its error in runc's words where the guest's runtime (crun) has said the like. */
export function throwStartFailure(error: unknown): never {
  throw startFailure(error);
}

export function startFailure(error: unknown): unknown {
  if (!(error instanceof RuntimeError)) return error;
  const text = describe(error);
  const [, directory, reason] = /chdir `([^`]{1,4096})`: (.{1,200})/.exec(text) ?? [];
  if (directory !== undefined) {
    const words = `chdir to cwd (${JSON.stringify(directory)}) set in config.json failed: ${reason?.toLowerCase()}`;
    return new RuntimeError(error.code, `unable to start container process: ${words}`, { cause: error });
  }
  const rule = rules.find(({ pattern }) => pattern.test(text));
  if (rule === undefined) return error;
  // crun names the program in back-ticks, if at all.
  const [, name] = /`([^`]{1,200})`/.exec(text) ?? [];
  const who = name === undefined ? "" : `${JSON.stringify(name)}: `;
  return new RuntimeError(error.code, `unable to start container process: exec: ${who}${rule.words}`, {
    cause: error,
  });
}
