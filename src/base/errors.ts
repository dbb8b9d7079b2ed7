/**
 * The kinds of failure. A caller chooses what to do by the kind: retry (`unavailable`), mend the request
 * (`invalid_argument`), treat as done (`not_found` on delete), report a bug (`internal`).
 */
export type Code =
  | "invalid_argument"
  | "not_found"
  | "already_exists"
  | "failed_precondition"
  | "permission_denied"
  | "resource_exhausted"
  | "unimplemented"
  | "unavailable"
  | "deadline_exceeded"
  | "canceled"
  | "internal";

/**
 * The one error class of the runtime.
 *
 * Messages read `Cannot <action> <object>: <fact, with current and wanted value>`; the cause is not repeated in them.
 */
export class RuntimeError extends Error {
  readonly code: Code;

  constructor(code: Code, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = "CaissonError";
    this.code = code;
  }
}

/** The kind of any thrown value; what is not a `RuntimeError` is a bug (`internal`). */
export function codeOf(error: unknown): Code {
  return error instanceof RuntimeError ? error.code : "internal";
}

/** A rejection handler that swallows the given kinds of failure and passes everything else on. */
export function ignoreCode(...codes: Code[]): (error: unknown) => undefined {
  return (error) => {
    if (!codes.includes(codeOf(error))) throw error;
    return undefined;
  };
}

/** Prints an error with its causes on one line, each once, outermost first. */
export function describe(error: unknown): string {
  const parts: string[] = [];
  let current: unknown = error;
  for (let depth = 0; depth < 8 && current !== undefined && current !== null; depth++) {
    const text = current instanceof Error ? messageOf(current) : textOf(current);
    if (text !== "" && !parts.some((part) => part.includes(text))) parts.push(text);
    current = current instanceof Error ? current.cause : undefined;
  }
  return parts.join(": ");
}

function textOf(value: unknown): string {
  if (typeof value === "string") return value;
  try {
    return JSON.stringify(value) ?? String(value);
  } catch {
    // A bigint, or an object that holds itself.
    return String(value);
  }
}

function messageOf(error: Error): string {
  if (error instanceof AggregateError) {
    return `${error.message}: ${error.errors.map((inner) => describe(inner)).join("; ")}`;
  }
  return error.message;
}

/** The `code` of a Node system error ("ENOENT"), or undefined. */
export function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}

/** The value as an `Error`, wrapped when something else was thrown. */
export function asError(value: unknown): Error {
  return value instanceof Error ? value : new Error(String(value));
}
