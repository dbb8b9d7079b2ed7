import { closeSync, constants, openSync } from "node:fs";
import { ReadStream } from "node:tty";
import { RuntimeError } from "../base/errors.ts";
import { loadNative } from "../base/native.ts";
import { fileSink, type Sink } from "../client/sinks.ts";

export interface WindowSize {
  readonly columns: number;
  readonly rows: number;
}

/** The host's side of a process's terminal. */
export interface Console extends Disposable {
  readonly input: AsyncIterable<unknown>;
  readonly output: Sink;
  /** Undefined where it is not known. */
  size(): WindowSize | undefined;
}

/**
 * Makes a pseudo terminal, gives its master to whoever listens at `socketPath`, and is at its slave. As the leader of a
 * session without a terminal we get it as ours, so that SIGWINCH and SIGHUP come to us. It is raw: the guest has
 * the terminal that the process sees.
 *
 * @throws unavailable  nobody takes the master
 */
export function openConsole(socketPath: string): Console {
  const native = loadNative();
  const { master, slavePath } = native.openPty();
  const fds: number[] = [];
  try {
    fds.push(
      openSync(slavePath, constants.O_RDWR),
      openSync(slavePath, constants.O_WRONLY | constants.O_NOCTTY),
    );
    native.sendFd(socketPath, master, slavePath);
  } catch (cause) {
    for (const fd of fds) closeSync(fd);
    throw new RuntimeError("unavailable", `Cannot give the terminal to the console socket "${socketPath}"`, {
      cause,
    });
  } finally {
    closeSync(master);
  }
  const [reader = -1, writer = -1] = fds;
  const input = new ReadStream(reader);
  return {
    input,
    output: fileSink(writer),
    size: () => known(native.getWindowSize(writer)),
    [Symbol.dispose]: () => {
      input.destroy();
      closeSync(writer);
    },
  };
}

/** Our own stdin and stdout, raw until disposed where they are a terminal. */
export function ownConsole(output: Sink): Console {
  const { stdin } = process;
  const isTerminal = stdin.isTTY;
  const restore = () => {
    if (isTerminal) stdin.setRawMode(false);
  };
  process.once("exit", restore);
  if (isTerminal) stdin.setRawMode(true);
  return {
    input: stdin,
    output,
    size: () => {
      const fd = [process.stdout, process.stderr, stdin].find((stream) => stream.isTTY)?.fd;
      return fd === undefined ? undefined : known(loadNative().getWindowSize(fd));
    },
    [Symbol.dispose]: () => {
      process.off("exit", restore);
      restore();
    },
  };
}

function known(size: WindowSize): WindowSize | undefined {
  return size.columns > 0 && size.rows > 0 ? size : undefined;
}
