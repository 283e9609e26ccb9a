// Loaded before everything else (node --require): what has loaded @grpc/grpc-js earlier would call without a trace.
import { registerInstrumentations } from "@opentelemetry/instrumentation";
import { GrpcInstrumentation } from "@opentelemetry/instrumentation-grpc";
import { NodeTracerProvider } from "@opentelemetry/sdk-trace-node";

new NodeTracerProvider().register();

// From here on each call has a span, and hands its place in the trace on to payops and the PSP.
registerInstrumentations({ instrumentations: [new GrpcInstrumentation()] });
