import { request } from "node:http";
import { asError, RuntimeError } from "../base/errors.ts";
import { scope } from "../base/scope.ts";

export interface FetchLimits {
  readonly timeoutMs: number;
  readonly maxBytes: number;
}

/**
 * Gets the metrics of one daemon over HTTP on its unix socket.
 *
 * @throws unavailable, deadline_exceeded, resource_exhausted
 */
export async function fetchMetrics(path: string, { timeoutMs, maxBytes }: FetchLimits): Promise<string> {
  using limit = scope(undefined, timeoutMs, "the request for the metrics");
  try {
    return await get(path, maxBytes, limit.signal);
  } catch (cause) {
    if (limit.signal.aborted) throw limit.signal.reason as Error;
    if (cause instanceof RuntimeError) throw cause;
    throw new RuntimeError("unavailable", "Cannot get the metrics", { cause });
  }
}

function get(path: string, maxBytes: number, signal: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    const call = request({ socketPath: path, path: "/metrics", signal, agent: false }, (response) => {
      const fail = (error: unknown) => {
        call.destroy();
        reject(asError(error));
      };
      if (response.statusCode !== 200) {
        fail(new RuntimeError("unavailable", `Cannot get the metrics: the status is ${response.statusCode}`));
        return;
      }
      const chunks: Buffer[] = [];
      let length = 0;
      response.on("data", (chunk: Buffer) => {
        chunks.push(chunk);
        length += chunk.length;
        if (length <= maxBytes) return;
        fail(new RuntimeError("resource_exhausted", `Cannot get the metrics: more than ${maxBytes} bytes`));
      });
      response.once("end", () => resolve(Buffer.concat(chunks).toString("utf8")));
      response.once("error", fail);
    });
    call.once("error", reject);
    call.end();
  });
}
