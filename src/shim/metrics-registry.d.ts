/** The part of prom-client that knows the text form, as far as we use it; the package describes its whole only. */
declare module "prom-client/lib/registry.js" {
  interface Metric {
    readonly name: string;
    get(): {
      readonly name: string;
      readonly help: string;
      readonly type: "counter" | "gauge" | "histogram";
      readonly values: readonly {
        readonly labels: Readonly<Record<string, string | number>>;
        readonly value: number;
        readonly metricName: string;
      }[];
    };
  }

  export default class Registry {
    static readonly PROMETHEUS_CONTENT_TYPE: string;
    registerMetric(metric: Metric): void;
    metrics(): Promise<string>;
  }
}
