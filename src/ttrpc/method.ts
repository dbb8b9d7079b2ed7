/** A generated message class, as far as calls need it. */
export interface MessageType<In, Out> {
  encode(message: In): { finish(): Uint8Array };
  decode(bytes: Uint8Array): Out;
}

/** One unary method: its name on the wire and its messages. */
export interface Method<RequestIn, RequestOut, ResponseIn, ResponseOut> {
  readonly name: string;
  readonly request: MessageType<RequestIn, RequestOut>;
  readonly response: MessageType<ResponseIn, ResponseOut>;
  /** It may stay open for the life of a process, costs nothing meanwhile, and is counted apart from the others. */
  readonly waits: boolean;
}

export function method<RequestIn, RequestOut, ResponseIn, ResponseOut>(
  name: string,
  request: MessageType<RequestIn, RequestOut>,
  response: MessageType<ResponseIn, ResponseOut>,
  options: { readonly waits?: boolean } = {},
): Method<RequestIn, RequestOut, ResponseIn, ResponseOut> {
  return { name, request, response, waits: options.waits ?? false };
}

// oxlint-disable-next-line typescript/no-explicit-any -- the only type that stands for every method in a constraint
type AnyMethod = Method<any, any, any, any>;

/** Methods of a service by the name of their handler. */
export type MethodTable = Readonly<Record<string, AnyMethod>>;

/** What a handler gets besides its request. */
export interface Call {
  /** Aborts when the connection ends or the call's deadline passes, with the reason. */
  readonly signal: AbortSignal;
}

/** Implementations of a table's methods. Those that are missing answer Unimplemented. */
export type Handlers<Table extends MethodTable> = {
  readonly [K in keyof Table]?: Table[K] extends Method<
    infer _RequestIn,
    infer RequestOut,
    infer ResponseIn,
    infer _ResponseOut
  >
    ? (request: RequestOut, call: Call) => Promise<ResponseIn> | ResponseIn
    : never;
};
