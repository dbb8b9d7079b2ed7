import { type Code, RuntimeError } from "../base/errors.ts";

/** A command that was ended before its time; it has what the command had written by then. */
export class CommandError extends RuntimeError {
  readonly stdout: string;
  readonly stderr: string;

  /** @param code `deadline_exceeded`, `canceled`, `resource_exhausted` (too much output) or `unavailable` (the VM is gone) */
  constructor(
    code: Code,
    message: string,
    output: { readonly stdout: string; readonly stderr: string },
    options?: { cause?: unknown },
  ) {
    super(code, message, options);
    this.stdout = output.stdout;
    this.stderr = output.stderr;
  }
}
