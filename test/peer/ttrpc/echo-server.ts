import { setTimeout as sleep } from "node:timers/promises";
import { RuntimeError } from "../../../src/base/errors.ts";
import { google, ttrpc } from "../../../src/gen/ttrpc.js";
import type { Call } from "../../../src/ttrpc/method.ts";
import { method } from "../../../src/ttrpc/method.ts";
import { TtrpcServer } from "../../../src/ttrpc/server.ts";
import type { ServerLimits } from "../../../src/ttrpc/server-connection.ts";
import { bindService } from "../../../src/ttrpc/service.ts";
import { createTempDir } from "../../support/temp-dir.ts";

// KeyValue and Any stand in for messages: text, and bytes.
const { KeyValue } = ttrpc;
const { Any } = google.protobuf;

export const serviceName = "test.v1.Echo";
export const methods = {
  echo: method("Echo", KeyValue, KeyValue),
  fail: method("Fail", KeyValue, KeyValue),
  hang: method("Hang", KeyValue, KeyValue),
  deaf: method("Deaf", KeyValue, KeyValue),
  large: method("Large", KeyValue, Any),
  wait: method("Wait", KeyValue, KeyValue, { waits: true }),
  missing: method("Missing", KeyValue, KeyValue),
};

export interface EchoServer extends AsyncDisposable {
  readonly path: string;
  /** Errors that the server reported as its own bugs. */
  readonly internalErrors: unknown[];
  /** Reasons for which hanging calls were aborted. */
  readonly aborted: unknown[];
  close(): Promise<void>;
}

/** A server whose methods do what tests need: echo, fail with a code, hang until aborted, answer too much. */
export async function startEchoServer(limits: Partial<ServerLimits> = {}): Promise<EchoServer> {
  const dir = createTempDir();
  const path = dir.join("s");
  const internalErrors: unknown[] = [];
  const aborted: unknown[] = [];
  const hang = (call: Call) =>
    new Promise<never>((_, reject) => {
      call.signal.addEventListener("abort", () => {
        aborted.push(call.signal.reason);
        reject(call.signal.reason as Error);
      });
    });
  const server = new TtrpcServer({
    services: [
      bindService(serviceName, methods, {
        echo: (request) => request,
        fail: ({ key, value }) => {
          throw key === "bug" ? new TypeError(value) : new RuntimeError(key as "not_found", value);
        },
        hang: (_, call) => hang(call),
        deaf: () => sleep(300).then(() => ({})),
        large: ({ value }) => ({ value: Buffer.alloc(Number(value)) }),
        wait: (_, call) => hang(call),
      }),
    ],
    onInternalError: (error) => internalErrors.push(error),
    limits,
  });
  await server.listen(path);
  const close = () => server.close(1000);
  return {
    path,
    internalErrors,
    aborted,
    close,
    [Symbol.asyncDispose]: async () => {
      await close();
      await dir[Symbol.asyncDispose]();
    },
  };
}
