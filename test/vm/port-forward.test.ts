import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { text } from "node:stream/consumers";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { makePod } from "../peer/network/pod.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { type ModelContainer, startModelContainer } from "../support/model-container.ts";
import { patient } from "../support/patience.ts";

const echoPort = 8080;
const httpPort = 8081;
const shellPort = 8082;
const hostPort = 9999;

let net: ReturnType<typeof makePod>;
let server: ModelContainer;
beforeAll(async () => {
  net = makePod();
  const httpd = `echo hello >/tmp/index.html; httpd -p [::1]:${httpPort} -h /tmp`;
  const shell = `nc -ll -p ${shellPort} -e sh`;
  server = await startModelContainer({
    command: ["sh", "-c", `${httpd}; ${shell} & exec nc -llllllll -p ${echoPort} -e cat`],
    netnsPath: net.pod.path,
  });
  const isUp = () => inPod(`echo up | nc 127.0.0.1 ${echoPort} && echo exit | nc 127.0.0.1 ${shellPort}`);
  await vi.waitFor(async () => expect(await isUp()).toBe("up\n"), {
    timeout: patient(60_000),
    interval: 100,
  });
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  // What the forwarding took of the namespace has gone with it.
  expect(net.pod.run("ss --no-header -tnl")).toBe("");
  net[Symbol.dispose]();
});
checkLeaksAroundEachTest(() => ({ marks: [server.dir.token] }));

const nsenter = (command: string) => [`--net=${net.pod.path}`, "--", "busybox", "sh", "-c", command];

/** What a client in the pod's namespace on the host prints; this process has to serve it meanwhile. */
async function inPod(command: string): Promise<string> {
  const { stdout, stderr } = await promisify(execFile)("nsenter", nsenter(command)).catch(
    (error: unknown) => error as { stdout: string; stderr: string },
  );
  return stdout + stderr;
}

/** What a shell in the guest prints. */
async function inGuest(command: string): Promise<string> {
  const stream = await server.sandbox.connect(shellPort, { signal: AbortSignal.timeout(patient(60_000)) });
  stream.end(`${command}\n`);
  return await text(stream);
}

test.each(["127.0.0.1", "::1"])(
  "a client on %s of the pod's namespace reaches the guest",
  async (address) => {
    expect(await inPod(`echo 'there and back' | nc ${address} ${echoPort}`)).toBe("there and back\n");
  },
);

test("a server that listens on ::1 only is reached by both, one after the other", async () => {
  const get = (url: string) => inPod(`wget -qO- http://${url}:${httpPort}`);

  expect(await get("127.0.0.1")).toBe("hello\n");
  expect(await get("[::1]")).toBe("hello\n");
});

test("32 MiB go there and back", async () => {
  const command = `seq 1 4500000 | nc 127.0.0.1 ${echoPort} | sha1sum`;

  expect(await inPod(command)).toBe(await inPod("seq 1 4500000 | sha1sum"));
});

test("what is refused in the guest is reset at the client", async () => {
  // It writes nothing: the reset is not an answer to what is not read any more.
  const client = `net.connect(9, "127.0.0.1").on("error", ({ code }) => console.log(code)).on("end", () => console.log("end")).resume()`;

  expect(await inPod(`${process.execPath} -e '${client}'`)).toBe("ECONNRESET\n");
});

test("20 clients at once are served", async () => {
  const clients = `for i in $(seq 20); do (echo client $i | nc 127.0.0.1 ${echoPort}) & done; wait`;
  const lines = (await inPod(clients)).trimEnd().split("\n").sort();

  expect(lines).toEqual(Array.from({ length: 20 }, (_, index) => `client ${index + 1}`).sort());
});

test("what listens in the pod's namespace on the host is out of reach of the guest", async () => {
  await using listener = listenInPod();
  await expect
    .poll(() => inPod(`nc 10.1.0.5 ${hostPort} </dev/null`), { timeout: patient(20_000) })
    .toBe("host\n");

  const tries = ["127.0.0.1", "::1", "10.1.0.5", "10.1.0.1"].map(
    (address) => `nc -w 5 ${address} ${hostPort} </dev/null || echo ${address} does not answer`,
  );
  expect((await inGuest(`{ ${tries.join("; ")}; } 2>/dev/null`)).match(/does not answer/g)).toHaveLength(4);
  // The pod's own loopback is the guest's, whatever else is there.
  expect(await inPod(`nc 127.0.0.1 ${hostPort} </dev/null`)).not.toContain("host\n");
  expect(listener.pid).toBeGreaterThan(0);
});

function listenInPod() {
  const child = spawn("nsenter", nsenter(`exec nc -ll -p ${hostPort} -e echo host`), { stdio: "ignore" });
  const exited = once(child, "exit");
  return {
    pid: child.pid,
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGKILL");
      await exited;
    },
  };
}
