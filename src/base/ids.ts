import { RuntimeError } from "./errors.ts";

// containerd's rule for ids and namespaces (pkg/identifiers): what passes is safe as one path component.
const pattern = /^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$/;
const maxLength = 76;

/**
 * Returns `value` when it is a valid id, else throws; `what` names it in the message ("container id").
 *
 * @throws invalid_argument
 */
export function checkId(what: string, value: string): string {
  if (value.length > maxLength || !pattern.test(value)) {
    throw new RuntimeError(
      "invalid_argument",
      `Cannot use ${what} ${JSON.stringify(value.slice(0, 100))}: expected letters and digits, separated by single ".", "_" or "-", at most ${maxLength} characters`,
    );
  }
  return value;
}
