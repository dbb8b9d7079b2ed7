import type { Client } from "@grpc/grpc-js";
import { RuntimeError } from "../base/errors.ts";
import { foreignText } from "../base/log.ts";
import { caisson } from "../gen/agent.js";
import { checkFieldCount } from "../ttrpc/limits.ts";

const v1 = caisson.agent.v1;
type Query = caisson.agent.v1.NameQuery;
type Answer = caisson.agent.v1.INameAnswer;

/** A DNS message of 65535 bytes, an address and two numbers. */
const maxQueryBytes = 65_536 + 256;
const maxFields = 16;
/** The agent has as many open; who sends more gets no answer to them. */
const maxOpenQueries = 64;

/** What a program in the guest asks of a name server; all of it is hostile. */
export interface NameQuery {
  /** The address that it was sent to. */
  readonly address: string;
  readonly overTcp: boolean;
  readonly message: Buffer;
}

/**
 * Answers what is asked in the guest, until the connection ends.
 *
 * @param method  the full name of the call
 * @param answer  of one query; undefined: there is none. Must not reject
 * @returns resolves with the reason when it has ended; never rejects
 */
export function answerNameQueries(
  client: Client,
  method: string,
  answer: (query: NameQuery) => Promise<Uint8Array | undefined>,
): Promise<string> {
  const stream = client.makeBidiStreamRequest(
    method,
    (message: Answer) => Buffer.from(v1.NameAnswer.encode(message).finish()),
    (bytes: Buffer): Query => {
      checkQuery(bytes);
      return v1.NameQuery.decode(bytes);
    },
  );
  let openQueries = 0;
  const serve = async ({ number, address, tcp, message }: Query) => {
    const found = await answer({ address, overTcp: tcp, message: Buffer.from(message) });
    // It is open until the guest has taken the answer, so that what it does not take is bounded.
    stream.write({ number, message: found ?? new Uint8Array() }, () => openQueries--);
  };
  stream.on("data", (query: Query) => {
    if (openQueries >= maxOpenQueries) return;
    openQueries++;
    void serve(query);
  });
  return new Promise((resolve) => {
    stream.on("error", (error: Error) => resolve(foreignText(error.message)));
    stream.once("end", () => resolve("the agent ended the stream of name queries"));
  });
}

function checkQuery(bytes: Buffer): void {
  if (bytes.length > maxQueryBytes) {
    throw new RuntimeError(
      "resource_exhausted",
      `Cannot accept a name query of the guest: it has ${bytes.length} bytes, at most ${maxQueryBytes} are`,
    );
  }
  checkFieldCount(bytes, maxFields, "a name query of the guest");
}
