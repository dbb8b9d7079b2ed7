/** Shortest time between two events of OOM kills in one container. */
const intervalMs = 1_000;

/** The guest may report kills without end: one per container in a while is news, the statistics count them all. */
export class OomKills {
  readonly #atMs = new WeakMap<object, number>();

  isNews(container: object): boolean {
    const now = performance.now();
    if (now - (this.#atMs.get(container) ?? -Infinity) < intervalMs) return false;
    this.#atMs.set(container, now);
    return true;
  }
}
