import { abortable } from "../base/scope.ts";

/** More are not kept while nobody asks; the oldest goes. */
const maxKept = 32;

/** What a container has said at its notify socket, for one reader. */
export class Notifications {
  readonly #texts: string[] = [];
  #onNews: (() => void) | undefined;

  push(text: string): void {
    if (this.#texts.push(text) > maxKept) this.#texts.shift();
    this.#onNews?.();
  }

  /** Resolves when there is something, with all there is. */
  async take(signal: AbortSignal): Promise<string[]> {
    if (this.#texts.length === 0) {
      const news = Promise.withResolvers<void>();
      this.#onNews = news.resolve;
      await abortable(news.promise, signal);
    }
    return this.#texts.splice(0);
  }
}
