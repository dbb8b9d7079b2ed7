import { normalize } from "node:path";
import { RuntimeError } from "../base/errors.ts";
import type { Config } from "./config.ts";
import { annotationKeys, fields } from "./fields.ts";

/** Of all annotations, those that are for us begin so. */
const prefix = "io.caisson.";
/** The longest sensible value is a path. */
const maxValueLength = 4096;
const maxShownLength = 100;

/**
 * The configuration of a sandbox whose spec has these annotations. Each one that is for us must be known, be listed in
 * `allowedAnnotations`, and hold a value that its setting takes.
 *
 * @throws invalid_argument  names the annotation
 */
export function configFor(annotations: Readonly<Record<string, string>> | undefined, config: Config): Config {
  const changes = Object.entries(annotations ?? {})
    .filter(([name]) => name.startsWith(prefix))
    .map(([name, text]) => readAnnotation(name, text, config));
  return changes.length === 0 ? config : Object.freeze({ ...config, ...Object.fromEntries(changes) });
}

function readAnnotation(name: string, text: string, config: Config): readonly [keyof Config, unknown] {
  const refuse = (fact: string) =>
    new RuntimeError("invalid_argument", `Cannot use the annotation ${shown(name)}: ${fact}`);
  const key = annotationKeys.get(name);
  const field = fields.get(key ?? "");
  if (key === undefined || field === undefined) {
    throw refuse(`it is not known; the annotations are ${[...annotationKeys.keys()].join(", ")}`);
  }
  if (!config.allowedAnnotations.includes(name)) {
    throw refuse(`it is not listed in "allowed_annotations" of the configuration`);
  }
  const wrong = (expected: string) => refuse(`its value is ${shown(text)}, expected ${expected}`);
  // A space and what is printable: no line break, no NUL, no escape sequence.
  if (text.length > maxValueLength || !/^[ -~]*$/.test(text)) {
    throw wrong(`at most ${maxValueLength} printable ASCII characters`);
  }
  const value = parseText(text);
  // Here 0 and empty would stand for "choose", which is what no annotation says.
  if (value === 0 || value === "") throw wrong("a value");
  field.check(value, wrong);
  checkAgainst(config, key, value, wrong);
  return [field.property, value];
}

/** As TOML would hold it; only plain decimal numbers are numbers. */
function parseText(text: string): unknown {
  if (text === "true" || text === "false") return text === "true";
  return /^(?:0|[1-9]\d{0,9})$/.test(text) ? Number(text) : text;
}

/** What one sandbox may not have though the configuration could. */
function checkAgainst(
  { maxVcpus, guestDirectory }: Config,
  key: string,
  value: unknown,
  wrong: (expected: string) => Error,
): void {
  if (key === "vcpus" && Number(value) > maxVcpus) throw wrong(`at most ${maxVcpus} ("max_vcpus")`);
  if (key !== "kernel_path") return;
  const path = String(value);
  // Compared with its normal form, so that neither ".." nor "//" needs a rule of its own.
  if (normalize(path) !== path || !path.startsWith(`${guestDirectory}/`) || path.endsWith("/")) {
    throw wrong(`a path below "${guestDirectory}"`);
  }
}

function shown(text: string): string {
  const cut = text.length > maxShownLength ? `${text.slice(0, maxShownLength)}…` : text;
  return JSON.stringify(cut);
}
