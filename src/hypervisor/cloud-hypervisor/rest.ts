/**
 * Cloud Hypervisor's REST API over its unix socket: HTTP/1.1, one request per connection. Done by hand, because a tap goes
 * along with the request that needs it (SCM_RIGHTS, unix(7)), which Node's HTTP client cannot do.
 */
import { connect, Socket } from "node:net";
import { type Code, RuntimeError } from "../../base/errors.ts";
import { foreignText } from "../../base/log.ts";
import { loadNative } from "../../base/native.ts";
import { abortable } from "../../base/scope.ts";
import type { DiskBody, NetBody, VmBody } from "./plan.ts";

/** Far more than any answer to what we ask; Cloud Hypervisor may be in the hands of its guest. */
const maxAnswerBytes = 256 * 1024;

export interface Api {
  /** Of its socket, at most 107 bytes. */
  readonly path: string;
  readonly signal: AbortSignal;
}

/** Gives it the VM's description; nothing is started. Makes the console's socket. */
export async function createVm(api: Api, vm: VmBody): Promise<void> {
  await put(api, "vm.create", vm);
}

/** Adds a network device to a VM, booted or not. It keeps a duplicate of `tapFd`. */
export async function addNet(api: Api, net: NetBody, tapFd: number): Promise<void> {
  await put(api, "vm.add-net", net, tapFd);
}

/** Starts the guest's CPUs. */
export async function bootVm(api: Api): Promise<void> {
  await put(api, "vm.boot");
}

/** Adds a disk to a VM that runs. It has it open when this returns. */
export async function addDisk(api: Api, disk: DiskBody): Promise<void> {
  await put(api, "vm.add-disk", disk);
}

/** Asks the guest to let go of a device, which an event tells ("device-removed"). */
export async function removeDevice(api: Api, device: RemoveDeviceBody): Promise<void> {
  await put(api, "vm.remove-device", device);
}

/** What is left out stays. The guest takes memory when it likes to: `readMemoryBytes`. */
export async function resizeVm(api: Api, size: ResizeBody): Promise<void> {
  await put(api, "vm.resize", size);
}

/** The memory that the guest has, with what it has taken of that which it was offered. */
export async function readMemoryBytes(api: Api): Promise<number> {
  const { memory_actual_size: bytes } = JSON.parse(await request(api, "GET", "vm.info")) as {
    memory_actual_size?: unknown;
  };
  if (typeof bytes === "number") return bytes;
  throw new RuntimeError("internal", "Cannot vm.info of Cloud Hypervisor: it does not tell its memory");
}

export interface RemoveDeviceBody {
  readonly id: string;
}

export interface ResizeBody {
  readonly desired_vcpus?: number;
  readonly desired_ram?: number;
}

async function put(api: Api, endpoint: string, body?: object, fd?: number): Promise<void> {
  await request(api, "PUT", endpoint, body, fd);
}

/**
 * Returns the body of the answer.
 *
 * @throws invalid_argument, not_found, internal  its answer, with its words
 * @throws unavailable                            the connection ended
 */
async function request(
  api: Api,
  method: "GET" | "PUT",
  endpoint: string,
  body?: object,
  fd?: number,
): Promise<string> {
  const text = body === undefined ? "" : JSON.stringify(body);
  const message = [
    `${method} /api/v1/${endpoint} HTTP/1.1`,
    "Host: localhost",
    "Accept: */*",
    ...(text === "" ? [] : ["Content-Type: application/json"]),
    `Content-Length: ${Buffer.byteLength(text)}`,
    "",
    text,
  ].join("\r\n");
  const socket = fd === undefined ? connect(api.path) : openWith(api.path, fd, message);
  if (fd === undefined) socket.write(message);
  try {
    const { status, words } = await abortable(readAnswer(socket, endpoint), api.signal);
    if (status >= 200 && status < 300) return words;
    throw new RuntimeError(
      codeOfStatus(status),
      `Cannot ${endpoint} of Cloud Hypervisor: it answered ${status}: ${foreignText(words, 1000)}`,
    );
  } finally {
    socket.destroy();
  }
}

function openWith(path: string, fd: number, message: string): Socket {
  return new Socket({ fd: loadNative().openWithFd(path, fd, message), readable: true, writable: true });
}

function codeOfStatus(status: number): Code {
  if (status === 400) return "invalid_argument";
  return status === 404 ? "not_found" : "internal";
}

interface Answer {
  readonly status: number;
  readonly words: string;
}

function readAnswer(socket: Socket, endpoint: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    let received = "";
    const fail = (fact: string) =>
      reject(new RuntimeError("unavailable", `Cannot ${endpoint} of Cloud Hypervisor: ${fact}`));
    socket.on("data", (chunk: Buffer) => {
      received += chunk.toString("latin1");
      if (received.length > maxAnswerBytes) return fail(`its answer has more than ${maxAnswerBytes} bytes`);
      const answer = parseAnswer(received);
      if (answer !== undefined) resolve(answer);
    });
    socket.once("error", (error) => fail(`the connection failed (${error.message})`));
    socket.once("close", () => fail("the connection ended"));
  });
}

/** A whole answer, or undefined while a part of it is missing. */
export function parseAnswer(text: string): Answer | undefined {
  const end = text.indexOf("\r\n\r\n");
  if (end < 0) return undefined;
  const head = text.slice(0, end);
  const status = Number(/^HTTP\/1\.[01] (\d{3})/.exec(head)?.[1] ?? 0);
  const length = Number(/^content-length: *(\d{1,9})\r?$/im.exec(head)?.[1] ?? 0);
  const body = text.slice(end + 4);
  return body.length < length ? undefined : { status, words: body.slice(0, length) };
}
