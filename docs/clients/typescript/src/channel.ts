// A client of payops that does all that is due: TLS, keepalive, retries, deadlines, the caller's token.
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { CallCredentials, credentials, Metadata } from "@grpc/grpc-js";

import { PaymentOperationsServiceClient } from "../gen/payops/v1/payment_operations_service";

// What a call may and may not repeat, as payops publishes it.
const PUBLISHED = join(__dirname, "../../../../../proto/payops/v1/service_config.json");

export function client({ retries = true } = {}): PaymentOperationsServiceClient {
    const config = { ...JSON.parse(readFileSync(PUBLISHED, "utf8")), loadBalancingConfig: [{ round_robin: {} }] };
    return new PaymentOperationsServiceClient(env("BOUNDARY"), credentials.createSsl(readFileSync(env("CA"))), {
        "grpc.service_config": JSON.stringify(config),
        // Otherwise a TXT record in the DNS could replace what is published.
        "grpc.service_config_disable_resolution": 1,
        "grpc.enable_retries": Number(retries),
        // Notices within a minute that a connection is dead, also where nothing is called.
        "grpc.keepalive_time_ms": 60_000,
        "grpc.keepalive_timeout_ms": 20_000,
        "grpc.keepalive_permit_without_calls": 1,
    });
}

/** The caller's token. Only for clients from above: these have TLS, without which it must not leave. */
export function token(name = "TOKEN"): CallCredentials {
    return credentials.createFromMetadataGenerator((_, done) => {
        const metadata = new Metadata();
        metadata.set("authorization", `Bearer ${env(name)}`);
        done(null, metadata);
    });
}

/** Waits for a connection until the deadline. A call that moves money gives its idempotency key. */
export function headers(key?: string): Metadata {
    const metadata = new Metadata({ waitForReady: true });
    if (key !== undefined) metadata.set("idempotency-key", key);
    return metadata;
}

export function env(name: string): string {
    const value = process.env[name];
    if (!value) throw new Error(`${name} is not set`);
    return value;
}
