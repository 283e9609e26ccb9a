// Captures one payment: example TRANSACTION AMOUNT
import { randomUUID } from "node:crypto";
import { promisify } from "node:util";

import { CallOptions, Metadata, status } from "@grpc/grpc-js";
import { trace } from "@opentelemetry/api";

import { OperationState } from "../gen/payops/v1/operation";
import {
    CaptureRequest,
    CaptureResponse,
    WatchOperationRequest,
    WatchOperationResponse,
} from "../gen/payops/v1/payment_operations_service";
import { client, headers, token } from "./channel";
import { errorInfo, isServiceError } from "./errors";

async function main(transactionId: string, amount: bigint): Promise<void> {
    // Made once for this intention, and kept with it (in your database, before the call): every retry repeats it.
    const key = randomUUID();
    const payops = client();
    const capture = promisify<CaptureRequest, Metadata, Partial<CallOptions>, CaptureResponse>(
        payops.capture.bind(payops),
    );
    const request = CaptureRequest.create({ transactionId, amount });
    let answer: CaptureResponse;
    try {
        answer = await capture(request, headers(key), { deadline: Date.now() + 30_000, credentials: token() });
    } catch (error) {
        if (!isServiceError(error)) throw error;
        const info = errorInfo(error);
        process.exitCode = 1;
        if (info.metadata["safe_to_use_new_key"] === "true") {
            console.error(`not captured: ${status[error.code]} ${info.reason}: ${error.details}`);
        } else {
            // The money may have moved. Never a new key: ask again under this one, now or tomorrow.
            console.error(`not known yet, repeat with key ${key}: ${status[error.code]} ${info.reason}`);
        }
        return;
    }
    let operation = answer.operation!;
    if (operation.state === OperationState.PENDING) {
        // Accepted, and done later: follow it to its end.
        const watched = WatchOperationRequest.create({ name: { $case: "idempotencyKey", value: key } });
        const changes: AsyncIterable<WatchOperationResponse> = payops.watchOperation(watched, headers(), {
            credentials: token(),
        });
        for await (const change of changes) operation = change.operation!;
    }
    console.log(`capture of ${operation.amount}: ${OperationState[operation.state]}`);
    if (operation.state !== OperationState.SUCCEEDED) {
        console.error("nothing was captured");
        process.exitCode = 1;
    }
}

const [transaction, amount] = process.argv.slice(2);
if (!transaction || !amount) throw new Error("example TRANSACTION AMOUNT");
void trace.getTracer("shop").startActiveSpan("ship an order", async (span) => {
    console.log(`trace ${span.spanContext().traceId}`);
    await main(transaction, BigInt(amount)).finally(() => span.end());
});
