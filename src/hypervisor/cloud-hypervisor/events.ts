/** An entry of Cloud Hypervisor's event monitor: JSON objects with an empty line behind each. */
export interface MonitorEvent {
  /** "vm", "vmm", … */
  readonly source: string;
  /** "booted", "rebooting", "shutdown", … */
  readonly event: string;
  /** The device that it is about. */
  readonly id?: string;
}

/** Longer than any event; what is longer is thrown away. */
const maxEventLength = 16 * 1024;

/** Cuts the monitor's text into events. What is no event is left out. */
export class EventReader {
  #rest = "";

  push(text: string): MonitorEvent[] {
    const parts = (this.#rest + text).split("\n\n");
    const rest = parts.pop() ?? "";
    this.#rest = rest.length > maxEventLength ? "" : rest;
    return parts.flatMap((part) => parseEvent(part) ?? []);
  }
}

function parseEvent(text: string): MonitorEvent | undefined {
  try {
    const { source, event, properties } = JSON.parse(text) as Partial<MonitorEvent> & {
      properties?: { id?: unknown } | null;
    };
    if (typeof source !== "string" || typeof event !== "string") return undefined;
    const id = properties?.id;
    return { source, event, ...(typeof id === "string" && { id }) };
  } catch {
    return undefined;
  }
}
