import { type Code, RuntimeError } from "../../src/base/errors.ts";
import { containerd, google } from "../../src/gen/containerd.js";
import { toBigInt } from "../../src/gen/int64.ts";
import { method } from "../../src/ttrpc/method.ts";
import { TtrpcServer } from "../../src/ttrpc/server.ts";
import { bindService } from "../../src/ttrpc/service.ts";

/** An event as it arrived. `message` is decoded by its type. */
export interface ReceivedEvent {
  readonly namespace: string;
  readonly topic: string;
  readonly message: Readonly<Record<string, unknown>>;
  readonly sentAt: Date;
}

/** containerd's end of event publishing, on a real socket. */
export interface FakeEventsSink extends AsyncDisposable {
  /** Events that were taken, in their order. */
  readonly events: readonly ReceivedEvent[];
  readonly topics: readonly string[];
  /** Calls that came, those refused included. */
  readonly attempts: number;
  /** The next calls end so, one entry each; "hang" never answers. */
  answerNext(...answers: (Code | "hang")[]): void;
  /** Takes the server away, as a containerd that dies. */
  stop(): Promise<void>;
  /** Brings it back at the same path. */
  restart(): Promise<void>;
  /** Resolves once `count` events have been taken. */
  received(count: number): Promise<void>;
}

const forward = method("Forward", containerd.services.events.ttrpc.v1.ForwardRequest, google.protobuf.Empty);

export async function startFakeEventsSink(path: string): Promise<FakeEventsSink> {
  const events: ReceivedEvent[] = [];
  const answers: (Code | "hang")[] = [];
  let attempts = 0;
  let wake = () => {};

  const take = async ({ envelope }: containerd.services.events.ttrpc.v1.ForwardRequest.$Properties) => {
    attempts++;
    const answer = answers.shift();
    if (answer === "hang") await new Promise(() => {});
    if (answer !== undefined && answer !== "hang") throw new RuntimeError(answer, "planned failure");
    events.push(decodeEvent(envelope ?? {}));
    wake();
    return {};
  };
  const serve = async () => {
    const service = bindService("containerd.services.events.ttrpc.v1.Events", { forward }, { forward: take });
    const server = new TtrpcServer({ services: [service], onInternalError: () => {} });
    await server.listen(path);
    return server;
  };

  let server = await serve();
  return {
    events,
    get topics() {
      return events.map(({ topic }) => topic);
    },
    get attempts() {
      return attempts;
    },
    answerNext: (...next) => void answers.push(...next),
    stop: () => server.close(0),
    restart: async () => {
      server = await serve();
    },
    received: async (count) => {
      while (events.length < count) await new Promise<void>((resolve) => (wake = resolve));
    },
    [Symbol.asyncDispose]: () => server.close(0),
  };
}

function decodeEvent(envelope: containerd.types.Envelope.$Properties): ReceivedEvent {
  const { event, timestamp, topic, namespace } = envelope;
  const name = (event?.type_url ?? "").replace("containerd.events.", "");
  const type = containerd.events[name as "TaskCreate"];
  return {
    namespace: namespace ?? "",
    topic: topic ?? "",
    message: Object.fromEntries(Object.entries(type.decode(event?.value ?? new Uint8Array()))),
    sentAt: new Date(Number(toBigInt(timestamp?.seconds)) * 1000 + (timestamp?.nanos ?? 0) / 1e6),
  };
}
