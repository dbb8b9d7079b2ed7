import { spawn } from "node:child_process";
import { once } from "node:events";

/** Answers every question for an IPv4 address with `answer`; names with "outside" in them it asks `upstream`. By UDP and TCP. */
const program = `
const [address, answer, upstream] = process.argv.slice(1);
const reply = (query) => {
  let end = 12;
  while (query[end] !== 0) end += query[end] + 1;
  end += 5;
  const isIPv4 = query.readUInt16BE(end - 4) === 1;
  const head = Buffer.from(query.subarray(0, 12));
  head.writeUInt16BE(0x8180, 2);
  head.writeUInt16BE(isIPv4 ? 1 : 0, 6);
  head.writeUInt32BE(0, 8);
  const record = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, ...answer.split(".").map(Number)]);
  return Buffer.concat([head, query.subarray(12, end), ...(isIPv4 ? [record] : [])]);
};
const { createSocket } = require("node:dgram");
const udp = createSocket("udp4").on("message", (query, from) => {
  const send = (message) => udp.send(message, from.port, from.address);
  if (upstream === undefined || !query.includes("outside")) return send(reply(query));
  const asking = createSocket("udp4").on("message", (message) => (send(message), asking.close()));
  asking.send(query, 53, upstream);
});
const tcp = require("node:net").createServer((client) => {
  client.on("error", () => {}).on("data", (data) => {
    const message = reply(data.subarray(2));
    client.write(Buffer.concat([Buffer.from([message.length >> 8, message.length & 255]), message]));
  });
});
udp.bind(53, address, () => tcp.listen(53, address, () => console.log("up")));
`;

export interface NameServerOptions {
  readonly netnsPath: string;
  readonly address: string;
  readonly answer: string;
  readonly upstream?: string;
}

/** A name server in a network namespace, which serves when this resolves. Disposing ends it. */
export async function startNameServer(options: NameServerOptions): Promise<AsyncDisposable> {
  const { netnsPath, address, answer, upstream = [] } = options;
  const words = [address, answer, upstream].flat();
  const argv = [`--net=${netnsPath}`, "--", process.execPath, "--eval", program, ...words];
  const child = spawn("nsenter", argv, { stdio: ["ignore", "pipe", "inherit"] });
  const exited = once(child, "exit");
  const [line] = (await Promise.race([once(child.stdout, "data"), exited])) as [unknown];
  if (String(line) !== "up\n") throw new Error(`The name server does not start: ${String(line)}`);
  return {
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGKILL");
      await exited;
    },
  };
}
