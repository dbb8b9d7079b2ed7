import type { Socket } from "node:net";
import type { Duplex } from "node:stream";

/**
 * Joins a connection of the host to one of the guest. Each direction ends by itself; a side that breaks resets the other one, and so
 * does a guest that does not take the connection.
 *
 * @param client   allows half-open connections; taken over
 * @param connect  opens the guest's side
 * @throws what `connect` failed with, when the client was reset
 */
export async function forwardConnection(client: Socket, connect: () => Promise<Duplex>): Promise<void> {
  client.on("error", () => client.destroy());
  try {
    const guest = await connect();
    if (client.destroyed) guest.destroy();
    else join(client, guest);
  } catch (error) {
    reset(client);
    throw error;
  }
}

function join(client: Socket, guest: Duplex): void {
  guest.on("error", () => reset(client));
  client.once("close", () => {
    // The guest may still be told of an end that was in order.
    if (!client.readableEnded || !client.writableFinished) guest.destroy();
  });
  client.pipe(guest).pipe(client);
}

function reset(client: Socket): void {
  try {
    client.resetAndDestroy();
  } catch {
    // Only TCP knows it.
    client.destroy();
  }
}
