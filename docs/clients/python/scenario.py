"""Takes the steps of docs/clients/scenario.txt: python scenario.py SCENARIO PREFIX"""

import json
import os
import pathlib
import shlex
import subprocess
import sys
import urllib.request

import grpc

from example import reason
from payops.v1 import operation_pb2, payment_operations_service_pb2 as pb
from payops.v1.payment_operations_service_pb2_grpc import PaymentOperationsServiceStub
from payops_channel import channel, token


class Runner:
    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.transactions: dict[str, str] = {}
        self.retrying = PaymentOperationsServiceStub(channel())
        self.asking_once = PaymentOperationsServiceStub(channel(retries=False))

    def take(self, step: str) -> str | None:
        """Takes a step; what came of it, where there is something to tell."""
        verb, _, rest = step.partition(" ")
        match verb:
            case "transaction":
                name, body = rest.split(" ", 1)
                self.transactions[name] = self.sandbox("transactions", body)["id"]
            case "fault":
                for name, transaction in self.transactions.items():
                    rest = rest.replace(f'"@{name}"', f'"{transaction}"')
                self.sandbox("faults", rest)
            case "drain":
                subprocess.run(shlex.split(os.environ["DRAIN"]), check=True)
            case _:
                return self.call(verb, rest.split())
        return None

    def call(self, verb: str, words: list[str]) -> str:
        options = {word.split("=")[0]: word.split("=")[-1] for word in words if "=" in word or word in ("once", "async")}
        key, *arguments = [word for word in words if word.split("=")[0] not in options]
        key = f"{self.prefix}-{key}"
        payops = self.asking_once if "once" in options else self.retrying
        common = {
            "timeout": int(options.get("within", 30_000)) / 1000,
            "credentials": token("READER_TOKEN" if options.get("by") == "reader" else "TOKEN"),
            "wait_for_ready": True,
        }
        money = {"metadata": (("idempotency-key", key),), **common}
        transaction = self.transactions.get(arguments[0]) if arguments else None
        amount = int(arguments[1]) if len(arguments) > 1 else 0
        later = {"async": "async" in options}
        try:
            match verb:
                case "capture":
                    request = pb.CaptureRequest(transaction_id=transaction, amount=amount, **later)
                    answer, call = payops.Capture.with_call(request, **money)
                case "void":
                    answer, call = payops.Void.with_call(pb.VoidRequest(transaction_id=transaction, **later), **money)
                case "refund":
                    request = pb.RefundRequest(transaction_id=transaction, amount=amount, **later)
                    answer, call = payops.Refund.with_call(request, **money)
                case "get":
                    request = pb.GetOperationRequest(idempotency_key=key)
                    answer, call = payops.GetOperation.with_call(request, **common)
                case "watch":
                    *_, answer = payops.WatchOperation(pb.WatchOperationRequest(idempotency_key=key), **common)
                    call = None
                case _:
                    raise ValueError(f"no such step: {verb}")
        except grpc.RpcError as error:
            return told(error)
        replayed = call is not None and ("idempotency-replayed", "true") in call.initial_metadata()
        state = operation_pb2.OperationState.Name(answer.operation.state).removeprefix("OPERATION_STATE_")
        return f"{state} replayed" if replayed else state

    def sandbox(self, what: str, body: str) -> dict[str, str]:
        url = f"{os.environ['SANDBOX']}/sandbox/v1/{what}"
        with urllib.request.urlopen(urllib.request.Request(url, body.encode())) as answer:
            return json.load(answer)


def told(error: grpc.RpcError) -> str:
    info = reason(error)
    code = error.code().name
    if code == "DEADLINE_EXCEEDED" or info.reason == "OPERATION_IN_PROGRESS":
        return "TOO_LATE"
    new_key = info.metadata.get("safe_to_use_new_key")
    return " ".join([code, info.reason, *([f"new_key={new_key}"] if new_key else [])])


def main(scenario: str, prefix: str) -> None:
    runner, wrong = Runner(prefix), 0
    for line in pathlib.Path(scenario).read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        step, _, expected = line.partition(" -> ")
        result = runner.take(step)
        print(step if result is None else f"{step} -> {result}", flush=True)
        wrong += (result or "") != expected
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
