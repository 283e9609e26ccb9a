// Takes the steps of docs/clients/scenario.txt: scenario SCENARIO PREFIX
import { exec } from "node:child_process";
import { readFileSync } from "node:fs";
import { promisify } from "node:util";

import { ClientUnaryCall, Metadata, ServiceError, status } from "@grpc/grpc-js";

import { Operation, OperationState } from "../gen/payops/v1/operation";
import {
    CaptureRequest,
    GetOperationRequest,
    RefundRequest,
    VoidRequest,
    WatchOperationRequest,
    WatchOperationResponse,
} from "../gen/payops/v1/payment_operations_service";
import { client, env, headers, token } from "./channel";
import { errorInfo, isServiceError } from "./errors";

class Runner {
    private readonly transactions = new Map<string, string>();
    private readonly retrying = client();
    private readonly askingOnce = client({ retries: false });

    constructor(private readonly prefix: string) {}

    /** Takes a step; what came of it, where there is something to tell. */
    async take(step: string): Promise<string | undefined> {
        const [verb, rest] = cut(step, " ");
        switch (verb) {
            case "transaction": {
                const [name, body] = cut(rest, " ");
                this.transactions.set(name, (await sandbox("transactions", body)).id);
                return undefined;
            }
            case "fault":
                await sandbox(
                    "faults",
                    rest.replace(/"@(\w+)"/g, (_, name) => `"${this.transactions.get(name)}"`),
                );
                return undefined;
            case "drain":
                await promisify(exec)(env("DRAIN"));
                return undefined;
            default:
                try {
                    return await this.call(verb, rest.split(" "));
                } catch (error) {
                    if (!isServiceError(error)) throw error;
                    return told(error);
                }
        }
    }

    private async call(verb: string, words: string[]): Promise<string> {
        const isOption = (word: string) => word.includes("=") || word === "once" || word === "async";
        const given = new Map(words.filter(isOption).map((word) => cut(word, "=")));
        const [name, transaction = "", money = "0"] = words.filter((word) => !isOption(word));
        const key = `${this.prefix}-${name}`;
        const payops = given.has("once") ? this.askingOnce : this.retrying;
        const options = {
            deadline: Date.now() + Number(given.get("within") ?? 30_000),
            credentials: token(given.get("by") === "reader" ? "READER_TOKEN" : "TOKEN"),
        };
        const later = { transactionId: this.transactions.get(transaction), async: given.has("async") };
        const amount = BigInt(money);
        switch (verb) {
            case "capture": {
                const request = CaptureRequest.create({ ...later, amount });
                return unary((done) => payops.capture(request, headers(key), options, done));
            }
            case "void": {
                const request = VoidRequest.create(later);
                return unary((done) => payops.void(request, headers(key), options, done));
            }
            case "refund": {
                const request = RefundRequest.create({ ...later, amount });
                return unary((done) => payops.refund(request, headers(key), options, done));
            }
            case "get": {
                const request = GetOperationRequest.create({ name: { $case: "idempotencyKey", value: key } });
                return unary((done) => payops.getOperation(request, headers(), options, done));
            }
            case "watch": {
                const request = WatchOperationRequest.create({ name: { $case: "idempotencyKey", value: key } });
                const changes: AsyncIterable<WatchOperationResponse> = payops.watchOperation(
                    request,
                    headers(),
                    options,
                );
                let last: Operation | undefined;
                for await (const change of changes) last = change.operation;
                return stateOf(last);
            }
            default:
                throw new Error(`no such step: ${verb}`);
        }
    }
}

type Done = (error: ServiceError | null, answer: { operation?: Operation | undefined }) => void;

/** What a call answers, and whether that was known already: the boundary says so in a header. */
function unary(start: (done: Done) => ClientUnaryCall): Promise<string> {
    return new Promise((resolve, reject) => {
        let replayed = "";
        const call = start((error, answer) => (error ? reject(error) : resolve(stateOf(answer.operation) + replayed)));
        call.on("metadata", (header: Metadata) => {
            if (header.get("idempotency-replayed").includes("true")) replayed = " replayed";
        });
    });
}

function stateOf(operation?: Operation): string {
    return OperationState[operation?.state ?? OperationState.UNSPECIFIED];
}

function told(error: ServiceError): string {
    const { reason, metadata } = errorInfo(error);
    if (error.code === status.DEADLINE_EXCEEDED || reason === "OPERATION_IN_PROGRESS") return "TOO_LATE";
    const newKey = metadata["safe_to_use_new_key"];
    return [status[error.code], reason, ...(newKey ? [`new_key=${newKey}`] : [])].join(" ");
}

async function sandbox(what: string, body: string): Promise<{ id: string }> {
    const answer = await fetch(`${env("SANDBOX")}/sandbox/v1/${what}`, { method: "POST", body });
    if (!answer.ok) throw new Error(`the sandbox said ${answer.status}: ${await answer.text()}`);
    return (await answer.json()) as { id: string };
}

function cut(text: string, separator: string): [string, string] {
    const at = text.indexOf(separator);
    return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + separator.length)];
}

async function main(scenario: string, prefix: string): Promise<void> {
    const runner = new Runner(prefix);
    for (const line of readFileSync(scenario, "utf8").split("\n")) {
        if (!line || line.startsWith("#")) continue;
        const [step, expected] = cut(line, " -> ");
        const result = await runner.take(step);
        console.log(result === undefined ? step : `${step} -> ${result}`);
        if ((result ?? "") !== expected) process.exitCode = 1;
    }
}

const [scenario, prefix] = process.argv.slice(2);
if (!scenario || !prefix) throw new Error("scenario SCENARIO PREFIX");
void main(scenario, prefix);
