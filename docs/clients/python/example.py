"""Captures one payment: python example.py TRANSACTION AMOUNT"""

import sys
import uuid

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from payops.v1 import operation_pb2, payment_operations_service_pb2 as pb
from payops.v1.payment_operations_service_pb2_grpc import PaymentOperationsServiceStub
from payops_channel import channel, token


def reason(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    """What the boundary says beside the code: its reason, and whether another key is safe."""
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        if detail.Unpack(info):
            break
    return info


def main(transaction: str, amount: int) -> None:
    # Made once for this intention, and kept with it (in your database, before the call): every retry repeats it.
    key = str(uuid.uuid4())
    payops = PaymentOperationsServiceStub(channel())
    metadata = (("idempotency-key", key),)
    request = pb.CaptureRequest(transaction_id=transaction, amount=amount)
    try:
        answer = payops.Capture(request, metadata=metadata, timeout=30, credentials=token(), wait_for_ready=True)
        operation = answer.operation
        if operation.state == operation_pb2.OPERATION_STATE_PENDING:
            # Accepted, and done later: follow it to its end.
            watched = pb.WatchOperationRequest(idempotency_key=key)
            for change in payops.WatchOperation(watched, credentials=token(), wait_for_ready=True):
                operation = change.operation
    except grpc.RpcError as error:
        info = reason(error)
        if info.metadata.get("safe_to_use_new_key") == "true":
            sys.exit(f"not captured: {error.code().name} {info.reason}: {error.details()}")
        # The money may have moved. Never a new key: ask again under this one, now or tomorrow.
        sys.exit(f"not known yet, repeat with key {key}: {error.code().name} {info.reason}")
    state = operation_pb2.OperationState.Name(operation.state).removeprefix("OPERATION_STATE_")
    print(f"capture of {operation.amount}: {state}")
    if operation.state != operation_pb2.OPERATION_STATE_SUCCEEDED:
        sys.exit("nothing was captured")


if __name__ == "__main__":
    trace.set_tracer_provider(TracerProvider())
    with trace.get_tracer("shop").start_as_current_span("ship an order") as span:
        print(f"trace {span.get_span_context().trace_id:032x}")
        main(sys.argv[1], int(sys.argv[2]))
