import { RuntimeError } from "../base/errors.ts";
import { checkFieldCount } from "./limits.ts";
import type { Call, Handlers, MethodTable } from "./method.ts";

/** One method ready to be served: bytes in, bytes out. */
export interface BoundMethod {
  readonly waits: boolean;
  run(payload: Uint8Array, call: Call): Promise<Uint8Array>;
}

/** The methods of one service by their wire names. */
export interface BoundService {
  readonly name: string;
  readonly methods: ReadonlyMap<string, BoundMethod>;
}

const maxRequestFields = 10_000;

/** Puts handlers behind their wire names. Methods without a handler are not served. */
export function bindService<Table extends MethodTable>(
  name: string,
  table: Table,
  handlers: Handlers<Table>,
): BoundService {
  const methods = new Map<string, BoundMethod>();
  for (const [key, method] of Object.entries(table)) {
    const handler = handlers[key as keyof Table] as ((request: unknown, call: Call) => unknown) | undefined;
    if (handler === undefined) continue;
    methods.set(method.name, {
      waits: method.waits,
      run: async (payload, call) => {
        const request = decode(method.request, payload, `${name}/${method.name}`);
        const response = await handler(request, call);
        return method.response.encode(response).finish();
      },
    });
  }
  return { name, methods };
}

function decode(type: MethodTable[string]["request"], payload: Uint8Array, what: string): unknown {
  try {
    checkFieldCount(payload, maxRequestFields, `the request of ${what}`);
    return type.decode(payload);
  } catch (cause) {
    if (cause instanceof RuntimeError) throw cause;
    throw new RuntimeError("invalid_argument", `Cannot decode the request of ${what}`, { cause });
  }
}
