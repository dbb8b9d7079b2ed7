/**
 * The guest's side of the agent protocol on real sockets: a hybrid vsock backend, and behind it the gRPC service and
 * the stdio port. Says what the test tells it to say.
 */
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import {
  type sendUnaryData,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceDefinition,
  status,
} from "@grpc/grpc-js";
import { caisson } from "../../src/gen/agent.js";

const v1 = caisson.agent.v1;

/** The unary methods, by the name that their messages share. */
const methods = [
  "Configure",
  "CreateContainer",
  "CreateExec",
  "StartProcess",
  "SignalProcess",
  "ResizeTerminal",
  "DeleteProcess",
  "ListProcesses",
  "PauseContainer",
  "ResumeContainer",
  "UpdateContainer",
  "GetStats",
  "ServeNames",
  "Ping",
  "PowerOff",
] as const;

type Method = (typeof methods)[number];

/** The fields of an answer, its raw bytes, or a status with the agent's words. A promise that stays open hangs. */
type Answer = object | Uint8Array;
export type Handler = (request: Record<string, unknown>) => Answer | Promise<Answer>;

/** A failed call, as the agent reports it. */
export class AgentFailure extends Error {
  readonly code: number;

  constructor(code: number, details: string) {
    super(details);
    this.code = code;
  }
}

export interface FakeAgentOptions {
  /** The hybrid vsock socket. */
  readonly path: string;
  /** Methods without one answer with an empty message. */
  readonly handlers?: Partial<Record<Method, Handler>>;
  /** What the backend answers to `CONNECT <port>`; undefined: nothing. Default: `OK <port>\n`. */
  readonly onConnect?: (port: number) => string | undefined;
  /** What the stdio port answers to the line of a stream. Default: `OK\n`. */
  readonly onStream?: (line: string) => string;
}

/** What the host answers comes from it; queries, and what else a guest may send, go to it. */
export type NameStream = ServerDuplexStream<caisson.agent.v1.NameAnswer, object | Uint8Array>;

export interface FakeAgent extends AsyncDisposable {
  /** In the order of arrival. */
  readonly requests: readonly { readonly method: Method; readonly request: Record<string, unknown> }[];
  /** Ports that were asked for. */
  readonly dials: readonly number[];
  /** Connections to the backend, those without a handshake included. */
  readonly connectionCount: number;
  /** The open stdio streams by the rest of their line: `c1 - stdout`. */
  readonly streams: ReadonlyMap<string, Socket>;
  /** The lines that streams were opened with, the token included. */
  readonly streamLines: readonly string[];
  /** Sends an event; waits for the subscriber. */
  emit(event: caisson.agent.v1.IEvent | Uint8Array): Promise<void>;
  /** The stream of name queries, once the host has asked for it. */
  readonly names: Promise<NameStream>;
  /** Ends the event stream in order. */
  endEvents(): Promise<void>;
  /** Cuts every connection, as the death of the guest does. */
  drop(): void;
  /** Says something to the host's ready port. */
  sayReady(text?: string): Promise<Socket>;
}

const controlPort = 1024;
const stdioPort = 1025;
const readyPort = 1026;

export async function startFakeAgent(options: FakeAgentOptions): Promise<FakeAgent> {
  const { path, handlers = {}, onConnect = (port) => `OK ${port}\n`, onStream = () => "OK\n" } = options;
  const requests: { method: Method; request: Record<string, unknown> }[] = [];
  const dials: number[] = [];
  const streams = new Map<string, Socket>();
  const streamLines: string[] = [];
  const connections = new Set<Socket>();
  const subscriber = Promise.withResolvers<ServerWritableStream<unknown, Uint8Array>>();
  const names = Promise.withResolvers<NameStream>();
  let connectionCount = 0;

  const grpc = new Server();
  const injector = grpc.createConnectionInjector(ServerCredentials.createInsecure());
  grpc.addService(serviceDefinition(), {
    ...Object.fromEntries(
      methods.map((method) => [
        method,
        (call: ServerUnaryCall<Record<string, unknown>, Answer>, done: sendUnaryData<Answer>) => {
          requests.push({ method, request: call.request });
          void answer(handlers[method], call.request, done);
        },
      ]),
    ),
    Events: (call: ServerWritableStream<unknown, Uint8Array>) => subscriber.resolve(call),
    NameQueries: (call: NameStream) => names.resolve(call),
  });

  const serveStream = async (socket: Socket) => {
    const line = await readLine(socket);
    streamLines.push(line);
    const reply = onStream(line);
    if (reply.startsWith("OK")) streams.set(line.slice(line.indexOf(" ") + 1), socket);
    socket.write(reply);
    if (!reply.startsWith("OK")) socket.end();
  };
  const server = createServer((socket) => {
    connectionCount += 1;
    connections.add(socket);
    socket.on("error", () => {});
    socket.once("close", () => connections.delete(socket));
    void readLine(socket).then((line) => {
      const port = Number(/^CONNECT (\d+)$/.exec(line)?.[1]);
      dials.push(port);
      const reply = onConnect(port);
      if (reply !== undefined) socket.write(reply);
      if (port === controlPort && reply?.startsWith("OK")) injector.injectConnection(socket);
      if (port === stdioPort && reply?.startsWith("OK")) void serveStream(socket);
    });
  }).listen(path);
  await once(server, "listening");

  return {
    requests,
    dials,
    streams,
    streamLines,
    names: names.promise,
    get connectionCount() {
      return connectionCount;
    },
    emit: async (event) => {
      const bytes = event instanceof Uint8Array ? event : v1.Event.encode(event).finish();
      (await subscriber.promise).write(bytes);
    },
    endEvents: async () => {
      (await subscriber.promise).end();
    },
    drop: () => {
      for (const socket of connections) socket.destroy();
    },
    sayReady: async (text = "READY 1\n") => {
      const socket = connect(`${path}_${readyPort}`);
      socket.on("error", () => {});
      await once(socket, "connect");
      if (text !== "") socket.write(text);
      return socket;
    },
    async [Symbol.asyncDispose]() {
      grpc.forceShutdown();
      for (const socket of connections) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}

async function answer(
  handler: Handler | undefined,
  request: Record<string, unknown>,
  done: sendUnaryData<Answer>,
): Promise<void> {
  try {
    done(null, handler === undefined ? {} : await handler(request));
  } catch (error) {
    const { code = status.UNKNOWN, message } = error as Partial<AgentFailure>;
    done({ code, details: message ?? "" });
  }
}

/** The generated code has messages only: the service is put together from the names. */
function serviceDefinition(): ServiceDefinition {
  const types = v1 as unknown as Record<string, MessageType>;
  const typeOf = (name: string): MessageType => {
    const type = types[name];
    if (type === undefined) throw new Error(`No message ${name}`);
    return type;
  };
  const define = (method: string, responseType: MessageType, responseStream: boolean) => ({
    path: `/caisson.agent.v1.Agent/${method}`,
    requestStream: false,
    responseStream,
    requestSerialize: encodeWith(typeOf(`${method}Request`)),
    requestDeserialize: (bytes: Buffer) => typeOf(`${method}Request`).decode(bytes),
    responseSerialize: encodeWith(responseType),
    responseDeserialize: (bytes: Buffer) => responseType.decode(bytes),
  });
  return {
    ...Object.fromEntries(methods.map((name) => [name, define(name, typeOf(`${name}Response`), false)])),
    Events: define("Events", typeOf("Event"), true),
    NameQueries: {
      ...define("ServeNames", typeOf("NameQuery"), true),
      path: "/caisson.agent.v1.Agent/NameQueries",
      requestStream: true,
      requestDeserialize: (bytes: Buffer) => typeOf("NameAnswer").decode(bytes),
    },
  };
}

interface MessageType {
  encode(message: object): { finish(): Uint8Array };
  decode(bytes: Uint8Array): object;
}

function encodeWith(type: MessageType): (message: object) => Buffer {
  return (message) => Buffer.from(message instanceof Uint8Array ? message : type.encode(message).finish());
}

/** Reads one line byte by byte, so that nothing behind it is taken. */
function readLine(socket: Socket): Promise<string> {
  return new Promise((resolve) => {
    let line = "";
    const onReadable = () => {
      for (
        let byte = socket.read(1) as Buffer | null;
        byte !== null;
        byte = socket.read(1) as Buffer | null
      ) {
        if (byte[0] === 10) {
          socket.off("readable", onReadable);
          resolve(line);
          return;
        }
        line += byte.toString("latin1");
      }
    };
    socket.on("readable", onReadable);
  });
}

/** What the real agent says of a container that it does not know. */
export const notFound = (details: string): AgentFailure => new AgentFailure(status.NOT_FOUND, details);
