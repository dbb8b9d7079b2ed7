import { RuntimeError } from "../base/errors.ts";
import { parseObject, property } from "../base/json.ts";

/** What an image says about the process that it wants to be run. */
export interface ImageConfig {
  readonly env: readonly string[];
  readonly entrypoint: readonly string[];
  readonly command: readonly string[];
  /** Empty: "/". */
  readonly workingDirectory: string;
  /** "user[:group]", names or numbers; empty: root. */
  readonly user: string;
  /** Empty: SIGTERM. */
  readonly stopSignal: string;
}

/** The configuration of a plain directory. */
export const emptyImageConfig: ImageConfig = {
  env: [],
  entrypoint: [],
  command: [],
  workingDirectory: "",
  user: "",
  stopSignal: "",
};

const architectures: ReadonlyMap<string, string> = new Map([
  ["x64", "amd64"],
  ["arm64", "arm64"],
]);

/**
 * Reads an image configuration (image-spec, config.md), which comes from whoever made the image.
 *
 * @throws invalid_argument  it is not one, or it is for another system or machine
 */
export function parseImageConfig(text: string, image: string): ImageConfig {
  const refuse = (fact: string) =>
    new RuntimeError("invalid_argument", `Cannot use image "${image}": ${fact}`);
  const document = parseObject(text);
  if (document === undefined) throw refuse("its configuration is not a JSON object");
  const os = property(document, "os");
  const architecture = property(document, "architecture");
  const own = architectures.get(process.arch) ?? process.arch;
  if (os !== "linux") throw refuse(`it is for the system ${JSON.stringify(os)}, expected "linux"`);
  if (architecture !== own)
    throw refuse(`it is for the architecture ${JSON.stringify(architecture)}, this machine is "${own}"`);
  const config = property(document, "config") ?? {};
  const list = (key: string): readonly string[] => {
    const value = property(config, key) ?? [];
    if (!Array.isArray(value) || !value.every(isCString))
      throw refuse(`config.${key} is not a list of strings`);
    return value;
  };
  const string = (key: string): string => {
    const value = property(config, key) ?? "";
    if (!isCString(value)) throw refuse(`config.${key} is not a string`);
    return value;
  };
  return {
    // An entry without a name or value cannot be passed to a process.
    env: list("Env").filter((entry) => entry.indexOf("=") > 0),
    entrypoint: list("Entrypoint"),
    command: list("Cmd"),
    workingDirectory: string("WorkingDir"),
    user: string("User"),
    stopSignal: string("StopSignal"),
  };
}

function isCString(value: unknown): value is string {
  return typeof value === "string" && !value.includes("\0");
}
