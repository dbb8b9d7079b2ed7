import type { LogDestination } from "./daemon-log.ts";

const maxLines = 64;

/** The log of a daemon that has no bundle yet: keeps its lines, the newest, until there is a place for them. */
export class ReadyLog {
  #destination: LogDestination | undefined;
  #lines: string[] = [];

  write(line: string): void {
    if (this.#destination === undefined) this.#lines = [...this.#lines, line].slice(-maxLines);
    else this.#destination.write(line);
  }

  writeTo(destination: LogDestination): void {
    this.#destination = destination;
    for (const line of this.#lines.splice(0)) destination.write(line);
  }
}
