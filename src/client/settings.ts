import { stringify } from "smol-toml";
import type { Config } from "../config/config.ts";
import { fields } from "../config/fields.ts";

/**
 * The whole configuration as the text of a configuration file. Each container gets its own: it holds what was asked for
 * on the command line, and the container keeps its settings when the machine's change.
 */
export function formatConfig(config: Config): string {
  return stringify(Object.fromEntries([...fields].map(([key, field]) => [key, config[field.property]])));
}
