import { constants } from "node:os";
import { RuntimeError } from "../base/errors.ts";

/** Ended by a signal before there was a container to pass it to. */
export class Interruption extends RuntimeError {
  readonly signal: number;

  constructor(name: string, signal: number) {
    super("canceled", `Interrupted by ${name}`);
    this.signal = signal;
  }
}

type Deliver = (signal: number) => Promise<void>;

/** What a terminal or another process sends to steer a program; stopping and continuing stay our own. */
const relayed = [
  "SIGHUP",
  "SIGINT",
  "SIGQUIT",
  "SIGTERM",
  "SIGUSR1",
  "SIGUSR2",
  "SIGALRM",
  "SIGWINCH",
] as const;
const ending: ReadonlySet<string> = new Set(["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"]);

/**
 * Where our signals go: as long as there is no process in a container for them, those that end a program abort
 * `aborted` (so that everything is undone); later all are passed on.
 */
export class SignalRelay implements Disposable {
  readonly #controller = new AbortController();
  readonly #listeners = new Map<NodeJS.Signals, () => void>();
  #deliver: Deliver | undefined;

  constructor() {
    for (const name of relayed) {
      const listener = () => this.#receive(name);
      this.#listeners.set(name, listener);
      process.on(name, listener);
    }
  }

  /** Aborts with an `Interruption`. */
  get aborted(): AbortSignal {
    return this.#controller.signal;
  }

  /** Passes signals on from now on; what `deliver` fails with means that there is nobody to tell any more. */
  forwardTo(deliver: Deliver): void {
    this.#deliver = deliver;
  }

  /** The process is gone: from now on signals end us. */
  stopForwarding(): void {
    this.#deliver = undefined;
  }

  [Symbol.dispose](): void {
    for (const [name, listener] of this.#listeners) process.off(name, listener);
  }

  #receive(name: (typeof relayed)[number]): void {
    const number = constants.signals[name];
    if (this.#deliver !== undefined) {
      this.#deliver(number).catch(() => {
        // It has ended meanwhile; its exit is on the way to us.
      });
    } else if (ending.has(name)) {
      this.#controller.abort(new Interruption(name, number));
    }
  }
}
