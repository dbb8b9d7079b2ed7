import { type Code, codeOf, describe, RuntimeError } from "../base/errors.ts";

/** Numbers of google.rpc.Code. */
const numbers: Readonly<Record<Code, number>> = {
  canceled: 1,
  invalid_argument: 3,
  deadline_exceeded: 4,
  not_found: 5,
  already_exists: 6,
  permission_denied: 7,
  resource_exhausted: 8,
  failed_precondition: 9,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
};

/** Numbers that have no kind of their own here: what the caller of such a call can do is nearest to these. */
const foreign: ReadonlyMap<number, Code> = new Map<number, Code>([
  [2, "internal"],
  [10, "unavailable"],
  [11, "invalid_argument"],
  [15, "internal"],
  [16, "permission_denied"],
]);

const kinds: ReadonlyMap<number, Code> = new Map(
  Object.entries(numbers).map(([code, number]) => [number, code as Code]),
);

/** Longest message sent; a longer one could make the answer too large for a frame. */
const maxMessageLength = 16 * 1024;

export interface Status {
  readonly code: number;
  readonly message: string;
}

/** What the caller of a failed call is told. */
export function toStatus(error: unknown): Status {
  return { code: numbers[codeOf(error)], message: describe(error).slice(0, maxMessageLength) };
}

/** The error that a peer's status stands for. */
export function fromStatus(status: Status): RuntimeError {
  return new RuntimeError(kinds.get(status.code) ?? foreign.get(status.code) ?? "internal", status.message);
}
