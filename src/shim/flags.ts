/** What containerd gives on the command line. Absent strings are empty. */
export interface Flags {
  readonly namespace: string;
  readonly id: string;
  /** containerd's gRPC socket; empty when our own command line is the caller. */
  readonly address: string;
  readonly publishBinary: string;
  readonly bundle: string;
  readonly debug: boolean;
  /** First positional argument: `start`, `delete`, or our own `daemon`. */
  readonly action: string;
}

type TextFlag = "namespace" | "id" | "address" | "publishBinary" | "bundle";

const textFlags: ReadonlyMap<string, TextFlag> = new Map<string, TextFlag>([
  ["namespace", "namespace"],
  ["id", "id"],
  ["address", "address"],
  ["publish-binary", "publishBinary"],
  ["bundle", "bundle"],
]);
/** Flags of Go's shims that take a value and mean nothing here. */
const ignoredTextFlags: ReadonlySet<string> = new Set(["socket", "debug-socket"]);

/**
 * Parses Go's `flag` syntax: `-name value`, `-name=value`, one or two dashes, the action being the first argument that
 * is none. A flag that is not known is ignored, without a value: a later containerd may pass more. The launcher has the same
 * rules (launcher/src/flags.rs), and answers `-v` and `-info`.
 */
export function parseFlags(argv: readonly string[]): Flags {
  const texts: Record<TextFlag, string> = {
    namespace: "",
    id: "",
    address: "",
    publishBinary: "",
    bundle: "",
  };
  let debug = false;
  let action = "";
  for (let index = 0; index < argv.length; index++) {
    const argument = argv[index] ?? "";
    const match = /^--?([^-=][^=]*)(?:=(.*))?$/s.exec(argument);
    if (match === null) {
      action = argument === "--" ? (argv[index + 1] ?? "") : argument;
      break;
    }
    const [, name = "", inline] = match;
    const text = textFlags.get(name);
    if (name === "debug") debug = !/^(?:0|f|false)$/i.test(inline ?? "true");
    else if (text !== undefined) texts[text] = inline ?? argv[++index] ?? "";
    else if (ignoredTextFlags.has(name) && inline === undefined) index++;
  }
  return { ...texts, debug, action };
}
