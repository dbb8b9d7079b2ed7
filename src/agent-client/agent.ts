import { Client, type ClientReadableStream, type ServiceError, status } from "@grpc/grpc-js";
import Long from "long";
import { type Code, RuntimeError } from "../base/errors.ts";
import { foreignText } from "../base/log.ts";
import { timed } from "../base/metrics.ts";
import { scope } from "../base/scope.ts";
import { caisson } from "../gen/agent.js";
import { checkFieldCount } from "../ttrpc/limits.ts";
import { type ShownProcesses, toShownProcesses } from "./shown-processes.ts";
import { type GuestStats, toGuestStats } from "./stats.ts";
import type {
  AgentEvents,
  FileTransfer,
  GuestConfiguration,
  GuestContainerRequest,
  GuestDescriptor,
  GuestNetworkSettings,
  GuestProcessEntry,
  GuestReport,
  GuestStdio,
  ProcessAddress,
} from "./agent-types.ts";
import { GuestCredentials } from "./guest-credentials.ts";
import { answerNameQueries, type NameQuery } from "./name-queries.ts";
import { throwStartFailure } from "./start-failure.ts";
import type { GuestAddress } from "./vsock.ts";

const v1 = caisson.agent.v1;
type Event = caisson.agent.v1.Event;

const agentPort = 1024;
const servicePath = "/caisson.agent.v1.Agent";
/** Answers are small; the largest is the process list of one container. */
const maxMessageBytes = 4 * 1024 * 1024;
const maxListedProcesses = 65_536;
/** More than the longest list has entries; an empty entry is two bytes on the wire and seventy in memory. */
const maxAnswerFields = 100_000;
/** Statistics have maps, whose entries that check does not see. Some kilobytes are usual. */
const maxStatsBytes = 256 * 1024;
const maxEventFields = 16;

/** Told of every call that is over: the method, and the kind of its failure. */
export type OnCall = (method: string, seconds: number, error: Code | undefined) => void;

/**
 * The control connection to one guest's agent. There is exactly one in the life of a sandbox: it is never dialled
 * again, because whoever answers then need not be the agent.
 */
export class Agent implements Disposable {
  readonly #client: Client;
  readonly #callTimeoutMs: number;
  readonly #onCall: OnCall;

  /** @param guest  dialled at the first call */
  constructor(guest: GuestAddress, callTimeoutMs: number, onCall: OnCall = () => {}) {
    this.#callTimeoutMs = callTimeoutMs;
    this.#onCall = onCall;
    const credentials = new GuestCredentials(guest, agentPort, callTimeoutMs);
    this.#client = new Client(credentials.target, credentials, {
      "grpc.max_receive_message_length": maxMessageBytes,
      "grpc.enable_retries": 0,
      "grpc.service_config_disable_resolution": 1,
      "grpc.default_authority": "agent",
      "grpc.enable_http_proxy": 0,
      // The connection must not be dropped for being idle (grpc-js does so after 30 minutes).
      "grpc.client_idle_timeout_ms": 2_147_483_647,
    });
  }

  [Symbol.dispose](): void {
    this.#client.close();
  }

  /** First call: clock, random seed, shares, network. */
  async configure(configuration: GuestConfiguration, signal?: AbortSignal): Promise<GuestReport> {
    const response = await this.#call(
      "Configure",
      v1.ConfigureRequest,
      v1.ConfigureResponse,
      {
        ...configuration,
        // Taken as late as possible: the time until the guest reads it is the error of its clock.
        wallClockUnixNanos: Long.fromNumber(Date.now()).multiply(1_000_000),
        storages: [...configuration.storages],
        interfaces: [...configuration.interfaces],
        routes: [...configuration.routes],
        neighbours: [...configuration.neighbours],
      },
      signal,
    );
    return {
      agentVersion: foreignText(response.agentVersion, 64),
      kernelRelease: foreignText(response.kernelRelease, 64),
      bootPhases: response.bootPhases.slice(0, 32).map((phase) => ({
        name: foreignText(phase.name ?? "", 64),
        atMicros: Number(phase.atMicros ?? 0),
      })),
    };
  }

  /** Brings the network to the given state. */
  async configureNetwork(network: GuestNetworkSettings, signal?: AbortSignal): Promise<void> {
    const request = {
      interfaces: [...network.interfaces],
      routes: [...network.routes],
      neighbours: [...network.neighbours],
    };
    await this.#call(
      "ConfigureNetwork",
      v1.ConfigureNetworkRequest,
      v1.ConfigureNetworkResponse,
      request,
      signal,
    );
  }

  /**
   * Delivers exits and OOM kills until the connection ends.
   *
   * @returns resolves with the reason when it has ended; never rejects
   */
  subscribe(events: AgentEvents): Promise<string> {
    const stream: ClientReadableStream<Event> = this.#client.makeServerStreamRequest(
      `${servicePath}/Events`,
      (request: caisson.agent.v1.EventsRequest) => Buffer.from(v1.EventsRequest.encode(request).finish()),
      (bytes) => {
        checkFieldCount(bytes, maxEventFields, "an event of the guest");
        return v1.Event.decode(bytes);
      },
      new v1.EventsRequest(),
    );
    stream.on("data", (event: Event) => deliver(event, events));
    return new Promise((resolve) => {
      stream.once("error", (error: Error) => resolve(foreignText(error.message)));
      stream.once("end", () => resolve("the agent ended the event stream"));
    });
  }

  async createContainer(request: GuestContainerRequest, signal?: AbortSignal): Promise<void> {
    await this.#call(
      "CreateContainer",
      v1.CreateContainerRequest,
      v1.CreateContainerResponse,
      {
        ...request,
        storages: [...request.storages],
        sharedNamespaces: [...request.sharedNamespaces],
        disks: [...request.disks],
        volumes: [...request.volumes],
        descriptors: request.descriptors.map(toDescriptor),
        environment: [...request.environment],
      },
      signal,
    ).catch(throwStartFailure);
  }

  async createExec(
    request: ProcessAddress & {
      readonly ociProcessJson: Uint8Array;
      readonly stdio: GuestStdio;
      readonly descriptors: readonly GuestDescriptor[];
    },
  ): Promise<void> {
    await this.#call("CreateExec", v1.CreateExecRequest, v1.CreateExecResponse, {
      ...request,
      descriptors: request.descriptors.map(toDescriptor),
    });
  }

  async createFileTransfer(request: ProcessAddress & FileTransfer): Promise<void> {
    const operation = v1.FileOperation[`FILE_OPERATION_${operationNames[request.operation]}`];
    await this.#call("CreateFileTransfer", v1.CreateFileTransferRequest, v1.CreateFileTransferResponse, {
      ...request,
      operation,
    });
  }

  async startProcess(process: ProcessAddress): Promise<void> {
    const started = this.#call("StartProcess", v1.StartProcessRequest, v1.StartProcessResponse, process);
    await started.catch(throwStartFailure);
  }

  async signalProcess(
    request: ProcessAddress & { readonly signal: number; readonly all: boolean },
    signal?: AbortSignal,
  ): Promise<void> {
    await this.#call("SignalProcess", v1.SignalProcessRequest, v1.SignalProcessResponse, request, signal);
  }

  async resizeTerminal(
    request: ProcessAddress & { readonly columns: number; readonly rows: number },
  ): Promise<void> {
    await this.#call("ResizeTerminal", v1.ResizeTerminalRequest, v1.ResizeTerminalResponse, request);
  }

  async deleteProcess(process: ProcessAddress, signal?: AbortSignal): Promise<void> {
    await this.#call("DeleteProcess", v1.DeleteProcessRequest, v1.DeleteProcessResponse, process, signal);
  }

  async pauseContainer(containerId: string): Promise<void> {
    await this.#call("PauseContainer", v1.PauseContainerRequest, v1.PauseContainerResponse, { containerId });
  }

  async resumeContainer(containerId: string): Promise<void> {
    await this.#call("ResumeContainer", v1.ResumeContainerRequest, v1.ResumeContainerResponse, {
      containerId,
    });
  }

  /** `linuxResourcesJson`: OCI `LinuxResources`. */
  async updateContainer(containerId: string, linuxResourcesJson: Uint8Array): Promise<void> {
    const request = { containerId, linuxResourcesJson };
    await this.#call("UpdateContainer", v1.UpdateContainerRequest, v1.UpdateContainerResponse, request);
  }

  /** Returns when so many processors of the guest are online. */
  async onlineProcessors(count: number): Promise<void> {
    await this.#call("OnlineProcessors", v1.OnlineProcessorsRequest, v1.OnlineProcessorsResponse, { count });
  }

  async getStats(containerId: string, signal?: AbortSignal): Promise<GuestStats> {
    const request = { containerId };
    return toGuestStats(
      await this.#call("GetStats", v1.GetStatsRequest, v1.GetStatsResponse, request, signal),
    );
  }

  /** The processes of a container, at most 65536. */
  async listProcesses(containerId: string, signal?: AbortSignal): Promise<GuestProcessEntry[]> {
    const { processes } = await this.#call(
      "ListProcesses",
      v1.ListProcessesRequest,
      v1.ListProcessesResponse,
      { containerId },
      signal,
    );
    return processes.slice(0, maxListedProcesses).map(({ guestPid, execId }) => ({
      guestPid: guestPid ?? 0,
      execId: foreignText(execId ?? "", 128),
    }));
  }

  /** Serves DNS at these addresses of the guest's loopback, for `answerNameQueries`. */
  async serveNames(addresses: readonly string[], signal?: AbortSignal): Promise<void> {
    const request = { addresses: [...addresses] };
    await this.#call("ServeNames", v1.ServeNamesRequest, v1.ServeNamesResponse, request, signal);
  }

  /** See `answerNameQueries` of name-queries.ts. */
  answerNameQueries(answer: (query: NameQuery) => Promise<Uint8Array | undefined>): Promise<string> {
    return answerNameQueries(this.#client, `${servicePath}/NameQueries`, answer);
  }

  /** The same for people. */
  async showProcesses(containerId: string, signal?: AbortSignal): Promise<ShownProcesses> {
    const request = { containerId };
    return toShownProcesses(
      await this.#call("ShowProcesses", v1.ShowProcessesRequest, v1.ShowProcessesResponse, request, signal),
    );
  }

  /** Resident memory of the agent in bytes. */
  async ping(signal?: AbortSignal): Promise<number> {
    const response = await this.#call("Ping", v1.PingRequest, v1.PingResponse, {}, signal);
    return Number(response.agentResidentBytes);
  }

  /** Ends the guest: it has killed everything and written back what there was when this returns, and is the caller's to kill. */
  async powerOff(signal: AbortSignal): Promise<void> {
    await this.#call("PowerOff", v1.PowerOffRequest, v1.PowerOffResponse, {}, signal);
  }

  #call<Request, Response>(
    method: string,
    requestType: Encoder<Request>,
    responseType: { decode(bytes: Uint8Array): Response },
    request: Request,
    signal?: AbortSignal,
  ): Promise<Response> {
    return timed(
      () => this.#callOnce(method, requestType, responseType, request, signal),
      (seconds, error) => this.#onCall(method, seconds, error),
    );
  }

  async #callOnce<Request, Response>(
    method: string,
    requestType: Encoder<Request>,
    responseType: { decode(bytes: Uint8Array): Response },
    request: Request,
    signal?: AbortSignal,
  ): Promise<Response> {
    using limit = scope(signal, this.#callTimeoutMs, `the call ${method} to the guest's agent`);
    limit.signal.throwIfAborted();
    return await new Promise<Response>((resolve, reject) => {
      const call = this.#client.makeUnaryRequest(
        `${servicePath}/${method}`,
        (value: Request) => Buffer.from(requestType.encode(value).finish()),
        (bytes) => {
          checkAnswer(method, bytes);
          return responseType.decode(bytes);
        },
        request,
        (error, response) => {
          limit.signal.removeEventListener("abort", cancel);
          if (limit.signal.aborted && error?.code === status.CANCELLED) reject(limit.signal.reason as Error);
          else if (error !== null) reject(translate(method, error));
          else if (response === undefined)
            reject(new RuntimeError("internal", `Cannot use the answer of ${method}: it is empty`));
          else resolve(response);
        },
      );
      const cancel = () => call.cancel();
      limit.signal.addEventListener("abort", cancel, { once: true });
    });
  }
}

const descriptorKinds = {
  "unix-listener": v1.DescriptorKind.DESCRIPTOR_KIND_UNIX_LISTENER,
  "tcp4-listener": v1.DescriptorKind.DESCRIPTOR_KIND_TCP4_LISTENER,
  "tcp6-listener": v1.DescriptorKind.DESCRIPTOR_KIND_TCP6_LISTENER,
  stream: v1.DescriptorKind.DESCRIPTOR_KIND_STREAM,
  "pipe-reader": v1.DescriptorKind.DESCRIPTOR_KIND_PIPE_READER,
  "pipe-writer": v1.DescriptorKind.DESCRIPTOR_KIND_PIPE_WRITER,
} as const;
function toDescriptor({ kind, port }: GuestDescriptor) {
  return { kind: descriptorKinds[kind], port };
}

const operationNames = { read: "READ", write: "WRITE", archive: "ARCHIVE", extract: "EXTRACT" } as const;

interface Encoder<T> {
  encode(message: T): { finish(): Uint8Array };
}

/** Refuses what is small on the wire and large in memory. */
function checkAnswer(method: string, bytes: Uint8Array): void {
  if (method === "GetStats" && bytes.length > maxStatsBytes) {
    throw new RuntimeError(
      "resource_exhausted",
      `Cannot accept the answer of ${method}: it has ${bytes.length} bytes, at most ${maxStatsBytes} are`,
    );
  }
  checkFieldCount(bytes, maxAnswerFields, `the answer of ${method}`);
}

function deliver(event: Event, events: AgentEvents): void {
  if (event.exit) {
    const { containerId, execId, exitStatus } = event.exit;
    events.onExit({
      containerId: containerId ?? "",
      execId: execId ?? "",
      exitCode: (exitStatus ?? 255) & 0xff,
    });
  } else if (event.oomKill) {
    events.onOomKill(event.oomKill.containerId ?? "");
  } else if (event.notification) {
    events.onNotification(event.notification.containerId ?? "", event.notification.text ?? "");
  }
}

const codes: ReadonlyMap<number, Code> = new Map([
  [status.CANCELLED, "canceled"],
  [status.INVALID_ARGUMENT, "invalid_argument"],
  [status.DEADLINE_EXCEEDED, "deadline_exceeded"],
  [status.NOT_FOUND, "not_found"],
  [status.ALREADY_EXISTS, "already_exists"],
  [status.PERMISSION_DENIED, "permission_denied"],
  [status.RESOURCE_EXHAUSTED, "resource_exhausted"],
  [status.FAILED_PRECONDITION, "failed_precondition"],
  [status.UNIMPLEMENTED, "unimplemented"],
  [status.UNAVAILABLE, "unavailable"],
]);

/** The agent's words are shown to the user as they are (bounded, escaped); ours say when there is no agent. */
function translate(method: string, error: ServiceError): RuntimeError {
  const code = codes.get(error.code) ?? "internal";
  const words = foreignText(error.details);
  return code === "unavailable"
    ? new RuntimeError(code, `Cannot call ${method} of the guest's agent: ${words}`)
    : new RuntimeError(code, words);
}
